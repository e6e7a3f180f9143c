# Included by program.pyx: from descriptions of loss, objective, augmentations and optimizer to a program's C structs.


cdef int describe_loss(Program self, loss) except -1:
    cdef Net *net = &self.net
    self.ignored = NO_LABEL
    if getattr(loss, "function", None) is not None:
        self.own_loss, self.takes_labels = partial(own_loss, loss), loss.takes_labels
        net.loss.loss, net.n_y = -1, loss.n_targets(net.n_out)
        return 0
    numbers = None if isinstance(loss, str) else loss.numbers(net.n_out)
    self.held_loss = Loss(self.loss_name, numbers, net.n_out, net.size)
    net.loss = self.held_loss.of
    net.n_y = target_columns(self.loss_name, net.n_out, net.loss.repeat)
    self.takes_labels = LOSSES[self.loss_name] == "label"
    if getattr(loss, "ignore_index", None) is not None:
        self.ignored = loss.ignore_index
    return 0


cdef int describe_objective(Program self, objective) except -1:
    cdef Net *net = &self.net
    cdef ptrdiff_t i
    net.l2, net.factor, net.told = 0, 1, 1
    net.bounds.floor, net.bounds.cap, net.bounds.limit = -INFINITY, INFINITY, DBL_MAX
    if objective is None:
        return 0
    if self.own_loss is not None:
        raise ValueError("objective must be None with a loss of your own")
    if objective.l2 and self.optimizer is not None and (
            net.update.decoupled or self.optimizer.name in ("adamw", "lion") or net.accumulate > 1):
        raise ValueError(f"l2 must be 0 with {self.optimizer!r}, which does not add decay to the gradient of a batch")
    net.l2, net.factor, net.told = objective.l2, objective.factor, objective.told
    describe_bounds(self, objective)
    for i in range(net.n_steps):
        if net.layers[i].kind == DENSE:
            net.n_columns += net.layers[i].n_out
    if net.l2 != 0:
        net.column_squares = <double *>calloc(max(1, net.n_columns), sizeof(double))
        if net.column_squares == NULL:
            raise MemoryError
    return 0


cdef int describe_bounds(Program self, objective) except -1:
    cdef fastnn_bounds *b = &self.net.bounds
    cdef bint cut
    b.floor, b.cap, b.limit = objective.floor, objective.cap, objective.limit
    cut = b.floor > -INFINITY or b.cap < INFINITY
    b.are_set = cut or b.limit < DBL_MAX
    if not cut:
        return 0
    if self.loss_name not in ("cross_entropy", "binary_cross_entropy") or self.net.loss.each != NULL:
        raise ValueError(f"floor and cap must be infinite with {self.loss_name} or its weights, got {objective!r}")
    # log(1 + exp(-a)) >= exp(-a) log(2) > exp(-a - 1), and log(1 + exp(a)) < a + 1.
    b.by_output = self.loss_name == "binary_cross_entropy" and self.net.n_out > 1
    b.edge = min(b.cap, -log(b.floor) if b.floor > 0 else INFINITY) - 1
    return 0


cdef int describe_augments(Program self, Run *r, Augment *augments, augment, y) except -1:
    cdef int i
    if len(augment) > MOST_AUGMENTS:
        raise ValueError(f"augment must be at most {MOST_AUGMENTS}, got {len(augment)}")
    for i, (kind, number) in enumerate(augment):
        augments[i].kind, augments[i].number = AUGMENTS[kind], number
        r.mixed = r.mixed or augments[i].kind == MIXUP
    if r.mixed and np.ndim(y) == 1 and self.takes_labels and self.loss_name != "cross_entropy":
        raise ValueError(f"{self.loss_name} takes labels, which cannot be mixed")
    r.augments, r.n_augments = augments, len(augment)
    return 0


cdef int describe_optimizer(Program self, optimizer) except -1:
    cdef Net *net = &self.net
    cdef ptrdiff_t rows, row_bytes = net.n_parameters * net.size
    cdef int n_states = optimizer.n_states, q
    cdef double[::1] numbers
    describe_update(&net.update, optimizer)
    describe_rules(net, optimizer, self.steps)
    net.accumulate, net.clip_norm, net.ema = optimizer.accumulate, optimizer.clip_norm or 0, optimizer.ema or 0
    net.unfolded = net.accumulate > 1 or net.clip_norm > 0
    rows = n_states + (net.accumulate > 1) + (optimizer.ema is not None)
    self.state, self.numbers = np.zeros((rows, net.n_parameters), self.dtype), np.zeros(int(net.accumulate > 1))
    self.state[:n_states] = getattr(optimizer, "initial_accumulator_value", 0.0)
    self.held_state = Array(self.state, True) if rows else None
    for q in range(n_states):
        net.states[q] = self.held_state.data + q * row_bytes
    if net.accumulate > 1:
        numbers = self.numbers
        net.accumulated, net.accumulated_weight = self.held_state.data + n_states * row_bytes, &numbers[0]
    if optimizer.ema is not None:
        net.average = self.held_state.data + (rows - 1) * row_bytes
    if net.unfolded:
        net.gradient = allocate(row_bytes)
        net.squares = <double *>calloc(net.n_parameters // FASTNN_DOT_BLOCK + 1, sizeof(double))
        if net.squares == NULL:
            raise MemoryError
    net.simple = not (net.unfolded or net.limited or net.average != NULL or net.n_rules > 1 or net.rules[0].l1 != 0
                      or net.update.clip_value > 0 or net.update.amsgrad or net.update.dampening != 0)
    if net.update.optimizer != FASTNN_sgd and net.update.optimizer != FASTNN_adam:
        net.simple = False
    return 0


cdef int describe_rules(Net *net, optimizer, tuple steps) except -1:
    """How each weight is updated; one rule where all are alike."""
    cdef ptrdiff_t i, first = 0, last
    cdef Rule *rule
    found = optimizer.rules(steps)
    net.rules = <Rule *>calloc(max(1, len(found)), sizeof(Rule))
    if net.rules == NULL:
        raise MemoryError
    net.n_rules, net.first_updated = len(found), net.n_steps
    for i, one in enumerate(found):
        rule = &net.rules[i]
        rule.offset, rule.length, rule.columns, rule.lr = one.offset, one.length, one.columns, one.lr
        rule.decay, rule.l1, rule.max_norm, rule.frozen = one.decay, one.l1, one.max_norm, one.frozen
        net.limited = net.limited or (rule.max_norm > 0 and not rule.frozen)
    for i, step in enumerate(steps):
        last = first + step.n_parameters
        if any(first < one.offset + one.length and one.offset < last and not one.frozen for one in found):
            net.first_updated = i
            break
        first = last
    return 0
