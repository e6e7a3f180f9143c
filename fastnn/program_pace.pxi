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
    int left, counted          # segments of the present trial; of them, those that count
    double tried, least        # seconds a step of these, added up; and the least


cdef double STEP_SECONDS = 3e-7  # a step of next to no arithmetic
cdef double FLOP_SECONDS = 2e-11  # a guess, until the first segment is measured
cdef double LONGEST_TRIAL = 4e-3  # a longer step is never tried on one thread: on a team it cannot be slower
# But for one whose arithmetic takes no more than this share of the team's time: more threads than there are cores for,
# as beside busy processes, wait for each other at every join. With 64 threads on two cores a step of 70 us took 8 ms, for
# as long as it trained. Only where one thread would not take so long that the two are never compared again.
cdef double WAITING_SHARE = 0.25
cdef ptrdiff_t FIRST_TRIAL = 8, LAST_TRIAL = 512, STEADY = 64  # segments
# One thread leads, but the team was faster in a part of its trial: the machine may soon be free, so it is tried again
# after so many at most. With LAST_TRIAL a net stayed on one thread for seconds after a busy moment.
cdef ptrdiff_t MIXED_TRIAL = 128
# Times the leader's time: a trial that is so much slower in all of its first segments that count ends with them. Where
# the team leads by as much when the two are first compared, one thread is tried again after STEADY segments.
cdef double CLEAR = 1.25
cdef int ENOUGH = 2
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
        team = p.team > LONGEST_TRIAL and FLOP_SECONDS * flops > min(WAITING_SHARE * p.team, LONGEST_TRIAL)
    elif p.team == 0:
        team = True
    else:
        if p.left == 0:
            p.segments -= 1
            if p.segments <= 0 and min(p.one, p.team) < LONGEST_TRIAL:
                p.left = TRIAL_OF_ONE if p.team_leads else TRIAL_OF_TEAM
                p.counted, p.tried, p.least = 0, 0, INFINITY
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
    cdef ptrdiff_t longest
    cdef bint first
    if n_threads > 1 and not p.started:
        p.started = True
        return
    p.held += 1
    if p.left:
        if n_threads == 1 or p.left < TRIAL_OF_TEAM:
            p.counted += 1
            p.tried += taken
            p.least = min(p.least, taken)
        p.left -= 1
        if p.counted >= ENOUGH and p.least > CLEAR * (p.team if n_threads == 1 else p.one):
            p.left = 0
        if p.left:
            return
        time[0] = p.tried / p.counted
        p.trial = min(2 * p.trial, MIXED_TRIAL if n_threads > 1 and p.least < p.one else LAST_TRIAL)
        p.segments = p.trial
    elif time[0] == 0:
        time[0] = taken
    else:
        time[0] += (min(taken, OUTLIER * time[0]) - time[0]) / MEMORY
    if p.one != 0 and p.team != 0 and (p.trial == 0 or p.team_leads != (p.team < p.one)):
        # Beside a busy process the team wins and loses in turn: then the other is tried ever more rarely, too.
        longest = LAST_TRIAL if p.team < p.one else MIXED_TRIAL
        first = p.trial == 0
        p.trial = FIRST_TRIAL if first or p.held >= STEADY else min(2 * p.trial, longest)
        p.segments, p.held = STEADY if first and CLEAR * p.team < p.one else p.trial, 0
        p.team_leads = p.team < p.one


# ------------------------------------------------------------------ from one program to the next

# A fit of 20 ms, as a search for hyperparameters has them by the hundred, would spend 1 of them on one thread to find
# out what the fit before it has found out. Read and written with the GIL held.
cdef enum:
    KEPT_PACES = 8
cdef struct KeptPace:
    double flops
    ptrdiff_t size
    Pace pace
cdef KeptPace[KEPT_PACES] kept_paces
cdef int next_kept = 0


cdef KeptPace *kept_pace(double flops, ptrdiff_t size, ptrdiff_t batch, int limit) noexcept:
    """What was kept of steps of the same work, or NULL."""
    cdef int i
    cdef KeptPace *kept
    for i in range(KEPT_PACES):
        kept = &kept_paces[i]
        if kept.flops == flops and kept.size == size and kept.pace.batch == batch and kept.pace.limit == limit:
            return kept
    return NULL


cdef void begin_pace(Pace *p, double flops, ptrdiff_t size, ptrdiff_t batch, int limit) noexcept:
    """Where a team led lately it does from the start; whether one thread is faster is always found out anew."""
    cdef KeptPace *kept = kept_pace(flops, size, batch, limit)
    if kept != NULL and kept.pace.team_leads:
        p[0] = kept.pace
        p.left = 0
        return
    memset(p, 0, sizeof(p[0]))
    p.batch, p.limit = batch, limit


cdef void keep_pace(const Pace *p, double flops, ptrdiff_t size) noexcept:
    global next_kept
    cdef KeptPace *kept
    if p.limit == 1 or flops < LEAST_TEAM_FLOPS:
        return
    kept = kept_pace(flops, size, p.batch, p.limit)
    if kept == NULL:
        kept = &kept_paces[next_kept]
        next_kept = (next_kept + 1) % KEPT_PACES
    kept.flops, kept.size, kept.pace = flops, size, p[0]
