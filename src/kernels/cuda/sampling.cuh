// What is known of logits before tokens are chosen from them.
#pragma once

#include "common.cuh"

// Of all of them, and what is listed: how many there are from this floor on, as `sampling.rs` reads it.
struct Head {
    double total;
    float largest, floor;
    u32 listed, has_nan;
};

struct Entry {
    u32 token;
    float logit;
};
