# Included by program.pyx: one step on a few rows, for loops that learn as data comes.

# `run` takes 3 us around a step of 1: objects for buffers, a lock, clocks, the threads to be chosen. None of it is
# needed for a step so short that Python waits for it.


cdef object learn(Program self, x, y, double lr):
    cdef Net *net = &self.net
    cdef Right x_, y_
    cdef Run r
    cdef const int64_t *labels
    cdef ptrdiff_t i
    # BatchNorm and a function of the user's have more to be looked at; a call in another thread has the buffers.
    if self.optimizer is None or net.coupled or self.own_loss is not None or self.loss_name is None or self.at_work:
        return None
    if not right_array(x, net.size, &x_) or x_.ndim != 2 or x_.columns != net.n_in or x_.rows < 1:
        return None
    # Rows without a dense layer in the net are not counted by their arithmetic.
    if x_.rows * self.row_flops >= min(GIL_FLOPS, LEAST_TEAM_FLOPS) or x_.rows > LEARN_ROWS or told_to_stop():
        return None
    memset(&r, 0, sizeof(r))
    if self.takes_labels:
        if not right_array(y, 0, &y_) or y_.ndim != 1 or y_.rows != x_.rows:
            return None
        r.labels = labels = <const int64_t *>y_.data
        for i in range(x_.rows):
            if labels[i] == self.ignored or not 0 <= labels[i] < net.n_out:
                return None
    else:
        if not right_array(y, net.size, &y_) or y_.rows != x_.rows or y_.columns != net.n_y:
            return None
        r.y = y_.data
    r.net, r.x, r.ld_x, r.x_size, r.n_rows = net, x_.data, net.n_in, net.size, x_.rows
    r.n_steps, r.batch, r.training, r.rates, r.end = 1, x_.rows, True, &lr, 1
    r.first_step, r.gradient = net.step, net.gradient
    prepare_batch(net, r.batch, 1)
    train(&r, 0, 1)
    # A loss that is not finite has changed nothing: the same step by `run` says what is wrong.
    return r.loss_sum / r.weight_sum if r.done else None
