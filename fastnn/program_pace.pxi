# Included by program.pyx: how many threads the next segment of steps gets.

# What a step takes on one thread and on the team. Which is faster depends on the net, the machine and who else is at
# work on it, so it is measured while training, by segments of steps. The bits do not depend on it.
cdef struct Pace:
    ptrdiff_t batch
    int limit
    double one, team           # seconds a step, lately; 0: not measured
    bint team_leads            # the team was faster lately
    ptrdiff_t held             # segments since that changed
    bint started               # the team has run: its first segment holds the start of threads, and does not count
    ptrdiff_t segments, trial  # until the other is tried again; length of that wait, 0: not compared yet
    int left                   # segments of the present trial
    double tried               # their seconds a step, added up


cdef double STEP_SECONDS = 3e-7  # a step of next to no arithmetic
cdef double FLOP_SECONDS = 2e-11  # a guess, until the first segment is measured
cdef double LONGEST_TRIAL = 4e-3  # a longer step is never tried on one thread: on a team it cannot be slower
cdef ptrdiff_t FIRST_TRIAL = 8, LAST_TRIAL = 512, STEADY = 64  # segments
# Segments of a trial. Of the team's, the first does not count: workers that slept are not warm. A trial is judged by
# its mean: beside a busy process the team is as fast as ever for a few segments, and waits for a core in the next.
cdef int TRIAL_OF_TEAM = 6, TRIAL_OF_ONE = 2
# What is used mostly is a mean over about so many segments, in which one counts OUTLIER times the mean at most: what
# the system did once, for milliseconds, is no reason to change.
cdef double MEMORY = 16, OUTLIER = 8
cdef double LONGEST_SEGMENT = 3  # times the usual, after which a team's segment ends early


cdef int choose_threads(Pace *p, double flops) noexcept nogil:
    """Threads of the next segment: what was faster lately; now and then, ever more rarely, the other."""
    cdef bint team
    if p.limit == 1 or flops < LEAST_TEAM_FLOPS:
        return 1
    if p.one == 0 and p.team == 0:
        team = p.started or flops >= TEAM_FLOPS
    elif p.one == 0:
        team = p.team > LONGEST_TRIAL
    elif p.team == 0:
        team = True
    else:
        if p.left == 0:
            p.segments -= 1
            if p.segments <= 0 and min(p.one, p.team) < LONGEST_TRIAL:
                p.left = TRIAL_OF_ONE if p.team_leads else TRIAL_OF_TEAM
                p.tried = 0
        team = p.team_leads != (p.left > 0)
    return p.limit if team else 1


cdef int fewer_threads(const Pace *p, double flops, int n_aside) noexcept nogil:
    """Threads of a segment while some compute beside it. A team whose threads wait for a core takes their time twice:
    the others wait for the last one."""
    cdef bint team = p.team_leads if p.one != 0 and p.team != 0 else p.team != 0 or flops >= TEAM_FLOPS
    return max(1, p.limit - n_aside) if team and flops >= LEAST_TEAM_FLOPS else 1


cdef void note_time(Pace *p, int n_threads, double taken) noexcept nogil:
    """Seconds of a step in the segment that ended."""
    cdef double *time = &p.one if n_threads == 1 else &p.team
    if n_threads > 1 and not p.started:
        p.started = True
        return
    p.held += 1
    if p.left:
        if n_threads == 1 or p.left < TRIAL_OF_TEAM:
            p.tried += taken
        p.left -= 1
        if p.left:
            return
        time[0] = p.tried / (TRIAL_OF_ONE if n_threads == 1 else TRIAL_OF_TEAM - 1)
        p.segments = p.trial = min(2 * p.trial, LAST_TRIAL)
    elif time[0] == 0:
        time[0] = taken
    else:
        time[0] += (min(taken, OUTLIER * time[0]) - time[0]) / MEMORY
    if p.one != 0 and p.team != 0 and (p.trial == 0 or p.team_leads != (p.team < p.one)):
        # Beside a busy process the team wins and loses in turn: then the other is tried ever more rarely, too.
        p.trial = FIRST_TRIAL if p.trial == 0 or p.held >= STEADY else min(2 * p.trial, LAST_TRIAL)
        p.segments, p.held = p.trial, 0
        p.team_leads = p.team < p.one
