# cython: language_level=3
"""A network as C structs, and what both training and prediction do with them."""
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastnn.kernels cimport (
    FASTNN_STATES, Array, fastnn_bounds, fastnn_dense, fastnn_kernels, fastnn_loss, fastnn_table, fastnn_update,
)

# How a long call without the GIL answers signals: one thread looks every SIGNAL_MILLISECONDS.
cdef struct Watch:
    double next_look
    bint interrupted        # the call is to end, and raise_again to be called
    PyObject *exception[3]  # what a signal's handler raised

# Seconds of a clock that is never set.
cdef double seconds() noexcept nogil
cdef void begin_watch(Watch *w) noexcept
cdef void look(Watch *w) noexcept nogil
# With the GIL: the exception that is being raised ends the call; raise_again raises it.
cdef void keep_exception(Watch *w, object error) noexcept
cdef int raise_again(Watch *w) except -1

cdef enum Kind:
    DENSE
    ACTIVATION
    DROPOUT
    SCALE
    EMBEDDING
    ADD
    COLUMNS
    JOIN
    BATCH_NORM
    LAYER_NORM
    RMS_NORM
    PRELU
    ALPHA_DROPOUT
    NOISE
    PERIODIC
    PIECEWISE
    SCALE_COLUMNS

cdef struct Layer:
    Kind kind
    int activation     # of this step's output
    bint rowwise
    bint from_input    # its derivative is kept in slope
    uint32_t layer     # in Dropout's counter
    double rate
    double factor, shift       # scale; of what alpha_dropout keeps; factor: deviation of noise
    double dropped             # alpha_dropout: instead of zero
    double eps, momentum       # norms; momentum below 0: statistics are means over all batches so far
    bint centred               # layer_norm, not rms_norm
    bint shared                # prelu: one slope for all columns
    ptrdiff_t running          # batch_norm: offset of its mean in the buffers; the variance follows,
                               # then, with momentum below 0, the number of batches
    ptrdiff_t with_next        # batch_norm: number of the activation that is done with it, 0: none
    bint is_done               # such an activation
    char *stats                # batch_norm (4, n_out): mean, variance, sums of d, sums of d times the normalised
                               # input; others (batch, 2): see norm_rows
    ptrdiff_t k                # periodic: frequencies a column
    char *line                 # scale_columns (4, n_out): zeros, ones, factors, shifts
    int64_t *n_edges           # piecewise
    double *edges
    ptrdiff_t n_tables         # embedding
    fastnn_table *tables
    ptrdiff_t n_in, n_out, ld  # ld: of a, d and mask
    ptrdiff_t weight, bias, slack  # elements; bias -1: none; slack: elements that follow the weights
    ptrdiff_t n_sources
    ptrdiff_t *sources # numbers of the steps that this one reads; -1: the input
    bint *adds         # for each: whether its gradient is added to what a later reader of it left there
    ptrdiff_t *values  # the same as sources, past the steps that prediction leaves out
    int64_t *columns   # (n_out,) of a columns step
    ptrdiff_t slot     # of prediction's room for the output
    bint trained       # the output depends on parameters
    bint needs_dx      # a source does
    bint gated         # d holds the gradient at z already: the following product multiplied by f'(a)
    char *a            # output (batch, ld)
    char *slope        # f'(z), for an activation whose output does not tell it; else NULL
    char *d            # gradient at the output, then at z
    char *mask         # dropout

# How a run of parameters is updated: see fastnn.optimizers.Rule.
cdef struct Rule:
    ptrdiff_t offset, length
    ptrdiff_t columns  # of a matrix, for max_norm; else 0
    double lr, decay, l1, max_norm
    bint frozen

cdef struct Net:
    const fastnn_kernels *table
    ptrdiff_t size             # itemsize
    ptrdiff_t n_steps, n_in, n_out, n_parameters
    bint chain                 # each step reads the one before, and nothing else
    bint plain                 # a chain of the kinds that predict_block knows
    bint coupled               # rows of a training batch meet before the weights
    bint counts                # of its norms one at least has statistics that are means over all batches
    bint scales_first          # the first step is a scale, alone to read x: done as rows are gathered
    double x_factor, x_shift   # its own; else 1 and 0
    ptrdiff_t first_trained    # steps before it do not depend on parameters
    Layer *layers
    char *parameters
    char *buffers              # or NULL
    char *states[FASTNN_STATES]
    fastnn_loss loss           # its loss is -1: a function of the user's, see Run
    ptrdiff_t n_y              # columns of targets
    fastnn_update update       # of all steps
    ptrdiff_t n_rules          # at least 1 where there is an optimizer; in the order of the parameters
    Rule *rules
    bint simple                # small_steps knows it: SGD or Adam, one rule, nothing of the below
    bint unfolded              # gradients go into a block first
    bint limited               # some rule has a max_norm
    ptrdiff_t first_updated    # step; all before it are frozen
    double clip_norm, ema      # 0: none
    double l2, factor, told    # see fastnn.steps.Objective
    fastnn_bounds bounds
    ptrdiff_t n_columns        # of all dense weights
    double *column_squares     # (n_columns,); NULL where l2 is 0
    uint64_t accumulate        # batches to an update
    char *gradient             # (n_parameters) or NULL
    char *accumulated          # sum of weight * gradient, NULL: every batch is an update
    double *accumulated_weight
    char *average              # of the weights, or NULL
    double *squares            # of the gradient, by blocks of FASTNN_DOT_BLOCK
    # for prediction
    fastnn_dense *dense        # (n_dense); n_dense 0: there are other steps than these and dropout
    ptrdiff_t n_dense
    ptrdiff_t n_slots          # results of one block that are held at once
    ptrdiff_t final            # the step that gives the result: the last that is not left out; -1: the input
    ptrdiff_t last_room        # the last step whose result is not in the place of its input; -1: none
    ptrdiff_t widest           # elements of a row of activations or of x
    ptrdiff_t widest_between   # of a row between two of `dense`
    double row_flops
    uint64_t seed, step        # steps done
    # one batch
    ptrdiff_t capacity, ld_x
    char *x
    int64_t *labels
    char *y
    double *weight
    double *loss_rows
    char *scratch              # a gradient on its way to be added, (batch, ld_scratch)
    ptrdiff_t ld_scratch
    char *gradients            # gradient_bytes for each thread
    ptrdiff_t gradient_bytes
    int gradient_threads
    char *small                # workspace of small_steps, small_bytes of it
    ptrdiff_t small_bytes

# What one thread of a team does in the rows phase.
cdef struct Part:
    ptrdiff_t first, last      # rows of the batch
    int thread, n_threads
    ptrdiff_t batch            # of all threads

# What step i reads as its source number j on the last training batch, from row `first` on.
cdef const char *source_of(const Net *net, const Layer *s, ptrdiff_t j, ptrdiff_t first,
                           ptrdiff_t *ld) noexcept nogil
# Buffers for a training batch on n_threads threads; kept, so that later calls allocate nothing.
cdef int prepare_batch(Net *net, ptrdiff_t batch, int n_threads) except -1
cdef void free_batch(Net *net) noexcept
# At least so many bytes in net.small.
cdef int prepare_small(Net *net, ptrdiff_t n_bytes) except -1
# Frees what describe() took.
cdef void forget(Net *net) noexcept
# The rows of a part of the batch in net.x through all steps, each into its own buffer; `step` is for dropout,
# which is off unless `training`. `slopes`: a backward pass follows.
cdef void forward(const Net *net, uint64_t step, bint training, bint slopes, const Part *part) noexcept nogil
# What the derivative of a step's activation is computed from: output, or slope.
cdef char *tells_slope(const Layer *s) noexcept nogil
# One row of x, widened from bytes and scaled where the first step says so.
cdef void take_row(const Net *net, const char *x, bint is_bytes, char *out) noexcept nogil
# Step whose output on the last training batch is the first that is not finite; -1: x; n_steps: all are.
cdef ptrdiff_t first_not_finite(const Net *net, ptrdiff_t batch) noexcept
# Whether prediction passes over a step: its result is its source's.
cdef bint is_left_out(const Layer *s) noexcept nogil
cdef int describe(Net *net, tuple steps, Array parameters, Array buffers) except -1
cdef Layer *end_of(const Net *net, Layer *s) noexcept nogil
cdef void share_of_columns(const Part *part, ptrdiff_t n, ptrdiff_t size, ptrdiff_t *first,
                           ptrdiff_t *last) noexcept nogil
cdef void apply_layer(const Net *net, const Layer *s, ptrdiff_t rows, const char *x, ptrdiff_t ld, char *a,
                      ptrdiff_t ld_a, char *stats) noexcept nogil
# Whole 64-byte lines of a row of n, and never a multiple of 4096 bytes.
cdef ptrdiff_t padded_ld(ptrdiff_t n, ptrdiff_t size) noexcept nogil
# Zeroed bytes on a 64-byte boundary, and their end.
cdef char *allocate(ptrdiff_t n_bytes) except NULL
cdef void release(char **block) noexcept
