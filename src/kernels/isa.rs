//! Which instructions the machine has: found once, when first asked.

use std::sync::OnceLock;

/// How many bytes ahead of what is read the next are asked for. Memory is then read a fifth faster than with what the
/// processor asks for by itself; the best distances were found by trying, on one Xeon of 2023.
pub const FAR: usize = 16 << 10;

/// The distance that is better for keys and values that several queries meet, and for some blocks of which two rows are read side
/// by side.
pub const NEAR: usize = 4 << 10;

/// The bytes that come at once.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Asks for as many bytes as `here` has, `AHEAD` of it, where memory is read in one long pass.
#[inline(always)]
pub fn prefetch<const AHEAD: usize, T>(here: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        let ahead = std::ptr::from_ref(here).cast::<i8>().wrapping_add(AHEAD);
        for line in (0..size_of::<T>()).step_by(LINE) {
            #[allow(unsafe_code)]
            // SAFETY: a prefetch reads nothing: any address may be given.
            unsafe {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(line));
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = here;
}

/// A level of instructions. A kernel for one level may be given any higher one too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every machine of the architecture has.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
    /// The same and AVX-512 BF16 on AMD's processors. On Intel's its products take twice as long as those of f32, so that prompts
    /// are slower with them; AMX is what those have for bf16.
    Bf16,
    /// The same and AMX tiles with BF16.
    Amx,
}

impl Isa {
    /// The highest level of this machine.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(detect)
    }

    /// All levels of this machine, from the lowest.
    pub fn available() -> impl Iterator<Item = Self> {
        [Self::Scalar, Self::Avx2, Self::Avx512, Self::Bf16, Self::Amx].into_iter().filter(|isa| *isa <= Self::best())
    }

    /// `a · b + c`, in one instruction where the level has it.
    #[inline(always)]
    pub fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        if self >= Self::Avx2 || cfg!(target_arch = "aarch64") { a.mul_add(b, c) } else { a * b + c }
    }
}

/// Functions that are compiled for each level, with its vectors. Their first parameter is the level; within them it is a
/// constant.
macro_rules! vectorized {
    ($(
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident$(<$T:ident: $bound:path>)?(
            $isa:ident: Isa, $($argument:ident: $type:ty),* $(,)?
        ) $(-> $result:ty)? $body:block
    )*) => {$(
        $(#[$attribute])*
        $visibility fn $name$(<$T: $bound>)?($isa: $crate::kernels::isa::Isa, $($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(unused_variables)]
            fn body$(<$T: $bound>)?($isa: $crate::kernels::isa::Isa, $($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512$(<$T: $bound>)?($($argument: $type),*) $(-> $result)? {
                body$(::<$T>)?($crate::kernels::isa::Isa::Avx512, $($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2$(<$T: $bound>)?($($argument: $type),*) $(-> $result)? {
                body$(::<$T>)?($crate::kernels::isa::Isa::Avx2, $($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            match $isa.min($crate::kernels::isa::Isa::best()) {
                $crate::kernels::isa::Isa::Scalar => {}
                // SAFETY: the machine has been found to have what these levels are.
                $crate::kernels::isa::Isa::Avx2 => return unsafe { avx2$(::<$T>)?($($argument),*) },
                // SAFETY: as above.
                _ => return unsafe { avx512$(::<$T>)?($($argument),*) },
            }
            body$(::<$T>)?($crate::kernels::isa::Isa::Scalar, $($argument),*)
        }
    )*};
}
pub(crate) use vectorized;

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    use std::arch::is_x86_feature_detected as has;
    let avx2 = has!("avx2") && has!("fma") && has!("f16c");
    let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") && has!("avx512vnni");
    match (avx2, avx512, has!("avx512bf16")) {
        (true, true, true) if super::amx::is_usable() => Isa::Amx,
        (true, true, true) if is_of_amd() => Isa::Bf16,
        (true, true, _) => Isa::Avx512,
        (true, false, _) => Isa::Avx2,
        (false, ..) => Isa::Scalar,
    }
}

#[cfg(target_arch = "x86_64")]
fn is_of_amd() -> bool {
    let maker = std::arch::x86_64::__cpuid(0);
    [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Isa {
    Isa::Scalar
}
