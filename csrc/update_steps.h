/* What of an optimizer's step depends on the number of the step alone: computed once a step, in double, with IEEE
 * operations whose order is written here; libm's pow and exp need not give the same bits everywhere. */
#ifndef FASTNN_UPDATE_STEPS_H
#define FASTNN_UPDATE_STEPS_H

#include "fastnn.h"

/* 0.96^x for x >= 0: exp of y = x log(0.96), by a series where |y| is small, then squared back. */
static inline double fastnn_power_of_096(double x)
{
    double y = x * -0.040821994520255166, sum = 1, term = 1;
    int halvings = 0;
    if (!(y > -700)) /* nothing is left of it */
        return 0;
    for (; y < -0.0078125; halvings++) y /= 2;
    for (int i = 1; i < 9; i++) { /* the next term is below 1e-24 */
        term *= y / i;
        sum += term;
    }
    for (; halvings > 0; halvings--) sum *= sum;
    return sum;
}

/* mu_t of NAdam, t from 1. */
static inline double fastnn_nadam_momentum(const fastnn_update *u, uint64_t t)
{
    return u->beta1 * (1 - 0.5 * fastnn_power_of_096((double)t * u->step_decay));
}

/* The numbers of step t, from 1. Cheapest where t is one more than in the call before. */
static inline void fastnn_begin_update(fastnn_update *u, uint64_t t)
{
    switch (u->optimizer) {
    case FASTNN_sgd: /* PyTorch's first velocity is the gradient itself */
        u->scale1 = t == 1 ? 1 : 1 - u->dampening;
        return;
    case FASTNN_adagrad:
        u->scale1 = 1 + (double)(t - 1) * u->step_decay;
        return;
    case FASTNN_adam:
    case FASTNN_adamw:
    case FASTNN_adamax:
    case FASTNN_nadam:
    case FASTNN_radam:
        u->correction1 = 1 - fastnn_power(u->beta1, t);
        u->correction2 = 1 - fastnn_power(u->beta2, t);
        break;
    default:
        return;
    }
    if (u->eps_hat != 0) /* the sum of eps and the root is as if the root were not yet corrected */
        u->eps = u->eps_hat / __builtin_sqrt(u->correction2);
    if (u->optimizer == FASTNN_nadam) {
        const double next = fastnn_nadam_momentum(u, t + 1);
        if (t == 1 || u->product_step + 1 != t) {
            u->product = 1;
            u->product_step = 0;
        }
        for (; u->product_step < t; u->product_step++) {
            u->product *= fastnn_nadam_momentum(u, u->product_step + 1);
            if (u->product < 0x1p-60) { /* 1 - product is 1, now and in all later steps */
                u->product = 0;
                u->product_step = t;
                break;
            }
        }
        u->scale1 = (1 - fastnn_nadam_momentum(u, t)) / (1 - u->product);
        u->scale2 = next / (1 - u->product * next);
    }
    if (u->optimizer == FASTNN_radam) {
        const double most = 2 / (1 - u->beta2) - 1;
        const double length = most - 2 * (double)t * (1 - u->correction2) / u->correction2;
        u->scale2 = length > 5;
        u->scale1 = 1;
        if (length > 5) { /* the variance of the adaptive rate is known */
            const double square = (length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length);
            u->scale1 = __builtin_sqrt(square) * __builtin_sqrt(u->correction2);
        }
    }
}

#endif
