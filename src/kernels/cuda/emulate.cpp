// The kernels as functions of the host, by name: what `tests.rs` calls.
#define EMULATED
#include <algorithm>
#include <cmath>
#include <utility>

using std::isnan;
using std::max;
using std::min;

#include "attention.cu"
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

static const struct {
    const char* name;
    void (*call)(void**);
    size_t arguments;
} KERNELS[] = {
    KERNEL(row_times_float), KERNEL(row_times_f16),     KERNEL(row_times_bf16), KERNEL(columns_times_float),
    KERNEL(columns_times_f16), KERNEL(columns_times_bf16), KERNEL(rms_norm),    KERNEL(gate),
    KERNEL(swiglu),          KERNEL(add_to_scaled),     KERNEL(rotate),         KERNEL(convolve),
    KERNEL(step),              KERNEL(scan_times),     KERNEL(scan_scores),
    KERNEL(scan_gains),      KERNEL(scan_states),       KERNEL(scan_outputs),   KERNEL(attend),
    KERNEL(join),            KERNEL(causal_softmax),    KERNEL(choose),         KERNEL(chosen_row_times_float),
    KERNEL(chosen_row_times_f16), KERNEL(chosen_row_times_bf16), KERNEL(squared_relu), KERNEL(weigh),
    KERNEL(gated_float), KERNEL(gated_f16), KERNEL(gated_bf16),
    KERNEL(chosen_gated_float), KERNEL(chosen_gated_f16), KERNEL(chosen_gated_bf16),
    KERNEL(survey),          KERNEL(set_floor),         KERNEL(list_best),       KERNEL(gather),
    KERNEL(visits_gated_float), KERNEL(visits_squared_float), KERNEL(visits_times_float),
    KERNEL(visits_gated_f16), KERNEL(visits_squared_f16), KERNEL(visits_times_f16),
    KERNEL(visits_gated_bf16), KERNEL(visits_squared_bf16), KERNEL(visits_times_bf16),
    KERNEL(visits_gated_rounded), KERNEL(visits_squared_rounded), KERNEL(visits_times_rounded),
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
