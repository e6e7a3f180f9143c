/* Every size and threshold that was chosen by measuring. Each says what it bounds, which way it may move
 * and what that costs. None of them changes a bit of any result. */
#ifndef FASTNN_TUNING_H
#define FASTNN_TUNING_H

/* Tile of a product: TILE_ROWS x (TILE_VECTORS * LANES) sums live in registers. The product of the two plus
 * TILE_VECTORS + 1 must not exceed the registers (32 with AVX-512 and NEON, 16 with AVX2), or sums spill
 * and speed halves. Two vectors a row: with one, each FMA needs a broadcast of its own (25-60 % slower). */
#if ISA_AVX512
#define TILE_ROWS 14
#define TILE_VECTORS 2
#elif ISA_AVX2
#define TILE_ROWS 6
#define TILE_VECTORS 2
#elif ISA_NEON
#define TILE_ROWS 6
#define TILE_VECTORS 4
#else
#define TILE_ROWS 4
#define TILE_VECTORS 2
#endif

/* Rows of b in one pass over a column panel, a multiple of 16; rows of a in one pass over b. A panel is K_BLOCK * 128
 * bytes with AVX-512, half of that with AVX2 and NEON; larger: it leaves L1 for L2, which is near enough; smaller:
 * sums go to memory and back more often (28 loads and stores for 28 * K_BLOCK FMAs). 512 would be 1-2 % faster in
 * 512x512x512 and needs 128 KB: two panels lie on the stack. The block of a is half of L2 (1 MB with AVX-512; 256 KB to
 * 1 MB else). Larger: it leaves L2; smaller: b is read, copied or turned more often (400 KB: 0-3 % slower). Both are cut
 * evenly, so that 784 is 400 + 384. */
#if ISA_AVX512
#define K_BLOCK 400
#define M_BLOCK_BYTES 550400
#else
#define K_BLOCK 256
#define M_BLOCK_BYTES 262144
#endif

/* Bytes of an array from which its rows are asked for ahead, and evenly: it does not fit into L2. Less: rows that are
 * there are asked for (128 KB: 784-128-10 on two threads 2-5 % slower); more: the first touch of each row is waited for,
 * which is what 1024x1024x1024 lost most by. */
#define FAR_BYTES 1048576

/* A panel of b is copied to the stack when its rows lie a multiple of this many bytes apart (they then compete
 * for the same few cache sets) and at least PACK_MIN_ROWS rows of a share the cost of the copy. At 2048 bytes a
 * panel still fits its sets of L2, and reading in place is 3-8 % faster. */
#define PACK_STRIDE_BYTES 4096
#define PACK_MIN_ROWS 64

/* Rows of a product, and bytes of b, up to which its tiles are called one after the other with nothing prepared, weighed
 * or asked for: b is in L1 anyway. More rows: what that saves is less than a hundredth. */
#define LEAN_ROWS 128
#define LEAN_BYTES 32768

/* A product computed as c^T passes through a buffer of so many numbers on the stack (32 or 64 KB), at most
 * TURN_COLUMNS columns of c at a time: fewer turn a more often, more leave no lanes for its rows. */
#define TURN_ELEMENTS 8192
#define TURN_COLUMNS 256
/* Rows, and columns, that turning costs where dz w^T is computed as c^T or by panels of w^T; see turned_is_better. Turning
 * costs about 0.4 cycles a number, an FMA of one vector half a cycle or one. Larger, the first: more products as c^T; the
 * second: fewer. */
#if ISA_AVX512
#define TURNED_W (REAL_IS_FLOAT ? 4.9 : 4.2)
#define TURNED_COLUMNS (REAL_IS_FLOAT ? 4.8 : 3.4)
#else
#define TURNED_W 6.7
#define TURNED_COLUMNS 6.0
#endif
/* Columns of w up to which x w always has kernels of its own, which turn x in registers; up to NARROW_WIDEST where in
 * place a quarter of the lanes or more would be idle (an eighth with AVX2 or float64), in passes of at most NARROW_PASS.
 * Those need a register for each column and group: ten are the most in 32. Zen 4, AVX-512, k = 128, 256 rows: float32 of
 * 5, 7, 10, 12 columns 9.4 us in place and 4.2, 5.0, 7.4, 8.6; float64 of 7, 9, 10, 14 columns 9.7, 19, 19, 19 and 8.7,
 * 10.8, 11.9, 17.2. AVX2: 5 and 10 columns 6.8 and 13.7 us, 4.2 and 8.0; float64 14.5 and 16.9, 6.6 and 12.9. */
#define NARROW_COLUMNS 4
#if ISA_AVX512
#define NARROW_PASS 10
#define NARROW_WIDEST 14
#elif ISA_AVX2
#define NARROW_PASS 5
#define NARROW_WIDEST 10
#else
#define NARROW_PASS NARROW_COLUMNS
#define NARROW_WIDEST NARROW_COLUMNS
#endif
/* L1 as those kernels see it: of rows 2048 bytes apart it holds a line of 16 at a time, of rows 4096 apart 8, and no
 * more are read side by side. 256x512x1 in float32 with 32 rows 25 us, with 16 10 us, with 8 18 us; where strides are
 * odd more rows are faster (256x496x1: 7.2 and 9.1). Larger: CPUs with 32 KB read each line four times. */
#define NARROW_L1_BYTES 32768
/* Bytes of w, a copy of which product_dots makes on the stack with its columns one after the other, and rows from which
 * the copy pays: a single row's numbers are spread to w as it lies, which takes 2-2.7 times as long for many rows. No more
 * than other products need (K_BLOCK), since some systems give threads 128 KB. */
#define DOTS_BYTES 98304
#define DOTS_FEW 1024 /* numbers of a small w, whose copy has a place of fixed size */
#define DOTS_TURN_ROWS 4
/* Columns of dz below which dw is computed as its transpose: dz of 10 columns then fills all lanes. */
#define TURN_NARROW_IN_PLACE 16

/* Floating-point operations (2 per multiply-add) of one call, or of one training step, from which a second
 * thread pays: a join costs 0.2-0.4 us while workers spin and 10-80 us when they sleep. Measured on two cores of
 * Zen 4, where 0.45 MFLOP took 5.0 us on one and 5.3 on two, 0.9 MFLOP 8.8 and 7.4 us. */
#define TEAM_FLOPS 600000
/* The same below which training does not even try: a step is then shorter than a few joins. */
#define LEAST_TEAM_FLOPS 200000
/* Numbers of a vector from which a single step of an optimizer takes several threads: about 10 us of Adam or SGD on one.
 * Smaller: a join, and waking workers that sleep, cost more than they give. */
#define TEAM_ELEMENTS 131072
/* Steps of training are run in segments of about so long, at whose ends the number of threads is chosen anew and
 * signals are looked at. Shorter: times are noise, and starting the team shows; longer: a bad choice lasts. */
#define SEGMENT_MICROSECONDS 1000
/* Epochs that nobody looks at in between are run in one call until so long is over. Shorter: Python, and waits for the
 * GIL where several train, come more often, 10 us and more each; longer: bars, turns of many trainings and `stop` come
 * late. */
#define EPOCHS_MICROSECONDS 5000

/* The same for one to three predicted rows, whose columns are then split, and from which their GIL is released:
 * weights of 1.2 MB in float32, more than one core's L2 of 1 MB holds, while two have two. Below, a row takes 10 us
 * at most (784-128-10: 3.6, at the limit of L2), where a worker that sleeps would be waited for longer. */
#define TEAM_ROW_FLOPS 600000
/* Rows up to which a prediction on several threads splits the columns of such a net rather than the rows, of which each
 * thread would read all weights, from L3: 784-512-512-10 on 4 rows 56 and 34 us, on 8 rows 66 and 58. From 12 rows on
 * the waits between layers cost as much. */
#define SPLIT_ROWS 8
/* Floating-point operations of a prediction from which workers are called and waited for, asleep or not. Shorter ones
 * do so only when the last such call ended at most FOLLOWING_MICROSECONDS ago, and the workers are awake (they are
 * woken by the first that follows): waking costs the caller 10 us, 60 us where the other core idles deeply. With
 * pauses of 0.2 ms, 0.6 MFLOP took 64 us on two threads and 6 us on one, 10 MFLOP 154 and 97 us. Larger: the first of
 * many long calls is slower than need be. More microseconds than workers spin (50) would wake them again and again. */
#define TEAM_COLD_FLOPS 24000000
#define FOLLOWING_MICROSECONDS 30
/* Those which, where calls follow closely, wait for workers that are just being woken: alone they take longer than
 * woken workers spin (50 us), which would be asleep again at the next call (784-512-512-10 on 16 rows: 200 us a call
 * in a loop, 105 so). */
#define TEAM_WAKING_FLOPS 4000000
/* Floating-point operations of a prediction from which the GIL is released: about 10 us. Giving it away and taking
 * it back costs 0.04 us alone, and a wake-up where another thread waits for it; a larger number makes that other
 * thread wait longer. Also released wherever workers are asked to help. */
#define GIL_FLOPS 1000000
/* Stack of a prediction for activations between layers. More is taken from small stacks of Python threads; less
 * sends wider nets to malloc (0.1 us). */
#define ROW_STACK_BYTES 16384

/* Bytes of activations between two layers that a thread keeps for a block of predicted rows, both layers
 * together. From 16 KB to 512 KB nets of 64 to 256 columns ran alike within 1 %; beyond a few L1s there is nothing
 * to win, and a page fault for every 4 KB to lose. */
#define PREDICT_BYTES 65536
/* Rows of such a block at least: two tiles of 14 rows. Fewer read the weights more often, more push them out of
 * L2 (784-512-512-10: 28 rows 3.05 ms, 112 rows 3.25 ms). */
#define PREDICT_ROWS 28
/* The same where the weights of a net come from memory or far caches: from so many floating-point operations a
 * row (8 MB in float32) on. 1024-2048-2048-1000 at 256 rows: 28 rows 98 ms, 84 rows 64 ms, 168 rows 54 ms. */
#define LARGE_ROW_FLOPS 4000000
#define PREDICT_ROWS_LARGE 168

/* Bytes of rows of x that are asked for before they are gathered. Less: each row waits for memory; more: what
 * was fetched is gone again, or the CPU (24 lines in flight on Zen 4) refuses. */
#define GATHER_AHEAD_BYTES 4096

/* Bytes of x from which the rows of the next step are asked for during the present one: a smaller x stays in L2. */
#define AHEAD_BYTES 524288

/* Bytes of weights, or of x, whose gradients are summed strip by strip: a strip of dz stays in L1 for that long, rows of
 * w and columns of x in L2. More: they come from L3 twice; fewer: strips of dz come from L2 more often. */
#define WEIGHTS_BYTES 65536
/* The same where dz has so many bytes, half of L2: its strips come from L3, while more tiles are summed. 64 KB: Adam on
 * 4096x1000 and 256 rows at 77 % of the peak, so at 87; 512 KB: Adam on 4096x4096 at 66-69 %, so at 73. */
#define DZ_BYTES 524288
#define WEIGHTS_BYTES_LARGE 262144

/* Steps of a weights product by which the columns of x are asked for ahead. 4 to 8 are alike (784-128-10, 32 rows, on
 * two threads 75 us, without 82); 16: what was asked for is pushed out of L1 before it is used (82). */
#define X_AHEAD_STEPS 6
/* Bytes of a thread's rows of weights and states from which Adam steps between two tiles again, not along with the
 * next one: where they come from memory (1024-4096-4096-1000, 200 MB a layer) that is 5 % of a step faster; 4.8 MB are
 * 5 % slower so. */
#define FOLLOW_BYTES 33554432
/* Floating-point operations of a step up to which small_steps does it where one thread is to. The general kernels were
 * slower at all that was measured up to there, the less the larger: 4-16-3 on 1 row 2.9x, on 32 rows 1.9x, 64-64-10 on
 * 16 rows 1.35x, on 64 rows 1.13x, 128-128-10 on 32 rows 1.10x; at 4 MFLOP they win. */
#define SMALL_FLOPS 3000000
/* Bytes of its workspace, which holds the parameters, rows filled up to lines: a part of L2. They are copied there and
 * back, which pays from so many steps of a call on: from 2 with SGD, 4 with Adam. */
#define SMALL_BYTES 262144
#define SMALL_STEPS 4
/* Rows of a batch up to which a matrix that is kept in two layouts is summed and updated twice rather than
 * transposed: a sum is one FMA a row and vector, a transpose four to six shuffles. */
#define SMALL_TWICE 4
/* Bytes of rows that are normalised before the activation goes over them: they are in L1 then. */
#define CHUNK_BYTES 16384
/* Milliseconds between looks at signals (Ctrl-C). */
#define SIGNAL_MILLISECONDS 20

#endif
