// The kernels as functions of the host, by name: what `tests.rs` calls.
#define EMULATED
#include <algorithm>
#include <cmath>
#include <utility>

using std::isnan;
using std::max;
using std::min;

#include "attention.cu"
#include "blocks.cu"
#include "draws.cu"
#include "mamba2.cu"
#include "moe.cu"
#include "products.cu"
#include "rows.cu"
#include "sampling.cu"
#include "visits.cu"

template <auto kernel>
struct Call;

template <typename... P, void (*kernel)(P...)>
struct Call<kernel> {
    static constexpr size_t COUNT = sizeof...(P);

    static void with(void** arguments) { with(arguments, std::index_sequence_for<P...>()); }

    template <size_t... I>
    static void with(void** arguments, std::index_sequence<I...>) {
        kernel(*static_cast<P*>(arguments[I])...);
    }
};

#define KERNEL(name) {#name, &Call<name>::with, Call<name>::COUNT}
#define OF_NUMBERS(family) KERNEL(family##_float), KERNEL(family##_f16), KERNEL(family##_bf16)
#define OF_BLOCKS(family) KERNEL(family##_q8_0), KERNEL(family##_q4_k), KERNEL(family##_q5_k), KERNEL(family##_q6_k)
#define OF_ALL(family) OF_NUMBERS(family), OF_BLOCKS(family)
#define OF_VISITED(family) OF_NUMBERS(family), KERNEL(family##_rounded)

static const struct {
    const char* name;
    void (*call)(void**);
    size_t arguments;
} KERNELS[] = {
    OF_ALL(row_times),        OF_ALL(gated),            OF_BLOCKS(widen_to_float),
    OF_BLOCKS(widen_to_bf16), OF_ALL(chosen_row_times), OF_ALL(chosen_gated),      OF_VISITED(visits_gated),
    OF_VISITED(visits_times), OF_VISITED(visits_squared), KERNEL(gather),          KERNEL(choose),
    KERNEL(squared_relu),     KERNEL(weigh),            KERNEL(rms_norm),          KERNEL(gate),
    KERNEL(swiglu),           KERNEL(add_to_scaled),    KERNEL(rotate),            KERNEL(convolve),
    KERNEL(step),             KERNEL(scan_times),       KERNEL(scan_scores),       KERNEL(scan_gains),
    KERNEL(scan_states),      KERNEL(scan_outputs),     KERNEL(attend),            KERNEL(join),
    KERNEL(causal_softmax),   KERNEL(survey),           KERNEL(set_floor),         KERNEL(list_best),
    KERNEL(weigh_stretches),  KERNEL(draw_from_all),    KERNEL(draw_from_best),    KERNEL(draw_from_nucleus),
};

// Whether there is a kernel of this name that takes so many arguments.
extern "C" bool blazr_emulate(const char* name, const unsigned* grid, unsigned block, unsigned shared, void** arguments,
                              size_t count) {
    for (auto kernel : KERNELS)
        if (!std::strcmp(kernel.name, name) && kernel.arguments == count) {
            emulator::run(kernel.call, grid, block, shared, arguments);
            return true;
        }
    return false;
}
