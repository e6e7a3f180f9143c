# cython: language_level=3
"""One training step, by phases."""
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t

from fastnn.inference cimport Net, Part, Watch
from fastnn.kernels cimport FASTNN_MAX_THREADS, fastnn_ahead, fastnn_small, fastnn_update

cdef enum Bad:
    FINE
    NOT_FINITE
    CHANGED  # order or labels are no longer what was judged
    RAISED   # the user's own loss; the exception is in the watch


# What a step does to its batch when it has gathered it: see fastnn.augment.
cdef enum Augmentation:
    MIXUP
    SWAP
    GAUSSIAN

cdef struct Augment:
    Augmentation kind
    double number              # alpha; rate; standard deviation


cdef struct Run:
    Net *net
    const char *x
    ptrdiff_t ld_x             # elements
    ptrdiff_t x_size           # itemsize of x: the net's, or 1 for bytes
    const int64_t *labels      # or NULL
    const char *y              # or NULL; (rows, n_y)
    const double *weight       # or NULL
    const int64_t *order       # (n_steps, batch), or NULL: rows 0 .. batch of x, one step
    const double *rates        # (n_steps,), or NULL: nothing is updated
    const double *momenta      # (n_steps,), or NULL: the optimizer's own
    ptrdiff_t n_steps, batch, n_rows
    uint64_t first_step        # number of the first step, for dropout and Adam
    bint training              # dropout on
    char *gradient             # instead of updating: (n_parameters,)
    bint loss_only
    PyObject *own_loss         # function (z, y, sample_weight) -> loss, dz of the user's, or NULL
    const Augment *augments    # (n_augments,)
    int n_augments
    bint mixed                 # targets are mixed: net.y has them, of labels as shares of the classes
    char *row_of_thread        # room for a row of x for each thread
    ptrdiff_t begin, end       # steps that the team is at
    double until               # seconds at which the team ends early, 0: never
    bint cut                   # it did; end is moved
    double deadline            # seconds at which the run ends early, at a step; 0: never
    bint out_of_time           # it did
    ptrdiff_t done
    ptrdiff_t before           # steps of its epoch before this run
    double loss_sum, weight_sum
    double *step_losses        # (n_steps,) what each adds to loss_sum, or NULL
    double batch_weight        # of the present batch, where batches are accumulated
    Watch watch
    bint coupled               # threads wait for each other within the rows phase: see `together`
    char met[2][FASTNN_MAX_THREADS]  # what each met there, by stage
    char bad[FASTNN_MAX_THREADS]  # Bad, by thread

# The steps of a run as small_steps takes them, or False if it does not; s is zeroed. Without its workspace.
# Sum of the weights of a batch, in row order; and what is then divided by it, 0 where there is no weight.
cdef double batch_weight(const Run *r, const int64_t *order) noexcept nogil
cdef double divided(double number, double total) noexcept nogil
cdef bint describe_small(Run *r, double flops, fastnn_small *s) noexcept
# Everything before the weights that a part of the rows of a step's batch needs.
cdef Bad rows_phase(Run *r, uint64_t step, const int64_t *order, const Part *part) noexcept nogil
# Waits for the team in the middle of the rows phase of a coupled run, and says whether no thread has met anything bad:
# the same answer for all, so that all take the same way. Stages take turns: 0 after the gather, 1 after the loss.
cdef bint together(Run *r, int stage, const Part *part, Bad met) noexcept nogil
# Gradient of this thread's rows of each w, summed over the batch, and their update; ahead: rows of x to ask for
# meanwhile, or NULL.
cdef void weights_phase(Run *r, const fastnn_update *u, int thread, int n_threads,
                        const fastnn_ahead *ahead) noexcept nogil
# Rows first .. last of a step's batch, and whether memory is to be asked for them before their gather.
cdef bint next_rows(const Run *r, fastnn_ahead *ahead, ptrdiff_t step, ptrdiff_t first, ptrdiff_t last) noexcept nogil
# From the whole gradient of a batch to the update of a thread's share; False: the weights stay for this batch.
cdef bint update_phase(Run *r, const fastnn_update *u, uint64_t step, int thread, int n_threads) noexcept nogil
# What follows update number n_updates, from 1: max_norm and the average of the weights.
cdef void after_phase(Run *r, uint64_t n_updates, int thread, int n_threads) noexcept nogil
