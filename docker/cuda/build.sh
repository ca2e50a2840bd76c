#!/usr/bin/env bash
# Builds blazr for NVIDIA GPUs on x86-64 Linux without a GPU, a driver or a CUDA toolkit; it takes Rust, a C++ compiler
# and Python with venv. Arguments are cargo's, instead of its own: `docker/cuda/build.sh clippy --features cuda`.
# Kernels are compiled for one generation of GPUs, CUDA_COMPUTE_CAP: 80 is Ampere, 89 Ada, 90 Hopper, 100 Blackwell.
set -euo pipefail
script=$(realpath "$0")
cd "$(dirname "$script")/../.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
venv=$target/cuda
export CUDA_HOME=$venv/nvidia/cu13
export PATH=$CUDA_HOME/bin:$PATH CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}

# Drivers of the 580 series and newer run what CUDA 13.0 makes.
wheels=(nvidia-{cublas,cuda-{cccl,crt,nvcc,nvrtc,runtime},nvvm}'==13.0.*' 'nvidia-curand<10.4.1')

# The driver's library is made last, so it tells that all is installed, and as this script has it now.
driver=$CUDA_HOME/lib/stubs/libcuda.so
if ! [[ $driver -nt $script ]]; then
  python3 -m venv --clear "$venv"
  "$venv/bin/pip" install --disable-pip-version-check --target "$venv" "${wheels[@]}"
  # What a toolkit has beside the wheels: unversioned names, and in place of the driver's library one in which each
  # function that the driver's header declares returns CUDA_ERROR_NO_DEVICE.
  for library in "$CUDA_HOME"/lib/lib*.so.*; do
    ln -sf "${library##*/}" "${library%.so.*}.so"
  done
  mkdir -p "$(dirname "$driver")"
  cc -E "$CUDA_HOME/include/cuda.h" \
    | sed -nE 's/.*\b(cu[A-Z]\w*)\(.*/int \1(void) { return 100; }/p' | sort -u \
    | cc -shared -fPIC -Wl,-soname,libcuda.so.1 -x c - -o "$driver"
fi

(($#)) || set -- build --locked --release --features cuda --bin blazr
cargo "$@"

cat << NOTE
What is built is in $target; it runs with the driver's libcuda.so.1 and CUDA's libraries:
  LD_LIBRARY_PATH=$CUDA_HOME/lib $target/release/blazr
NOTE
