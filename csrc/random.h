/* Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as
 * easy as 1, 2, 3", 2011). A number is a function of a key and a counter: any thread or device can make any
 * of them in any order. The counter's last word says what for, so that no two uses share numbers. */
#ifndef FASTNN_RANDOM_H
#define FASTNN_RANDOM_H

#include "fastnn.h"

enum { FASTNN_STREAM_DROPOUT, FASTNN_STREAM_WEIGHTS, FASTNN_STREAM_SHUFFLE };

#define PHILOX_M0 0xD2511F53u
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_W0 0x9E3779B9u /* golden ratio */
#define PHILOX_W1 0xBB67AE85u /* sqrt(3) - 1 */
#define PHILOX_ROUNDS 10

static inline uint32_t fastnn_stream_word(uint32_t stream, uint32_t low) { return stream << 28 | low; }

/* Counter words 2 and 3 of a dropout mask: 44 bits of the step, 16 of the layer. */
static inline uint32_t fastnn_dropout_word2(uint64_t step) { return (uint32_t)step; }
static inline uint32_t fastnn_dropout_word3(uint64_t step, uint32_t layer)
{
    return fastnn_stream_word(FASTNN_STREAM_DROPOUT, (uint32_t)(step >> 32 & 0xFFF) << 16 | (layer & 0xFFFF));
}

#endif
