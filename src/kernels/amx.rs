//! bf16 matrix products on AMX tiles (Intel, "Intel 64 and IA-32 Architectures Software Developer's Manual", volume 1,
//! chapter 18).
//!
//! A tile holds 16 rows of 64 bytes. Rust has no stable intrinsics for them, so the inner loop is assembly.

use std::arch::asm;
use std::sync::OnceLock;

use super::left::{ROWS, TILE};
use super::panels::PANEL;

/// 16 rows times 16 outputs, for two blocks of rows and two panels.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [[f32; ROWS * PANEL]; 4]);

/// Whether the machine has AMX with bf16 and the system lets this process use it.
pub(super) fn is_usable() -> bool {
    static IS_USABLE: OnceLock<bool> = OnceLock::new();
    *IS_USABLE.get_or_init(|| has_bf16_tiles() && is_permitted())
}

fn has_bf16_tiles() -> bool {
    let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
    let (amx_bf16, amx_tile) = (1 << 22, 1 << 24);
    std::arch::x86_64::__cpuid(0).eax >= 7 && features & amx_bf16 != 0 && features & amx_tile != 0
}

/// Linux saves the tiles of a process only after it has asked for them.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn is_permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: this system call reads and writes no memory of the process.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILEDATA,
             out("rcx") _, out("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// The shapes of all eight tiles: whole ones.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

/// Tiles that are set up on this thread, until it is dropped: one at a time, since dropping it lets go of all.
#[derive(Debug)]
pub(super) struct Tiles(std::marker::PhantomData<*const ()>);

impl Tiles {
    /// Sets the tiles up; none where [`is_usable`] says no.
    #[allow(unsafe_code)]
    pub(super) fn new() -> Option<Self> {
        const USED: usize = 8;
        let mut configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], bytes_per_row: [0; 16], rows: [0; 16] };
        configuration.bytes_per_row.iter_mut().take(USED).for_each(|bytes| *bytes = 64);
        configuration.rows.iter_mut().take(USED).for_each(|rows| *rows = ROWS as u8);
        if !is_usable() {
            return None;
        }
        // SAFETY: the tiles may be used, and the configuration is one of 64 bytes that has the palette's limits.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack)) };
        Some(Self(std::marker::PhantomData))
    }

    /// Adds the products of two times so many tiles of rows, and two times as many of panels, to four blocks of 16 by 16
    /// sums.
    #[allow(unsafe_code)]
    pub(super) fn add_products(&self, rows: [&[u16]; 2], panels: [&[u16]; 2], sums: &mut Sums) {
        let tiles = rows[0].len() / TILE;
        assert!(tiles > 0 && [rows[0], rows[1], panels[0], panels[1]].iter().all(|own| own.len() >= tiles * TILE));
        // SAFETY: the loop reads `tiles` tiles of all four, which are there, and writes the four sums. The tiles are set
        // up as long as `self` lives.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {stride}]",
                "tileloadd tmm1, [{sums} + {stride} + 1024]",
                "tileloadd tmm2, [{sums} + {stride} + 2048]",
                "tileloadd tmm3, [{sums} + {stride} + 3072]",
                "2:",
                "tileloadd tmm4, [{a} + {stride}]",
                "tileloadd tmm6, [{c} + {stride}]",
                "tileloadd tmm7, [{d} + {stride}]",
                "tileloadd tmm5, [{b} + {stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 1024",
                "add {b}, 1024",
                "add {c}, 1024",
                "add {d}, 1024",
                "dec {left}",
                "jnz 2b",
                "tilestored [{sums} + {stride}], tmm0",
                "tilestored [{sums} + {stride} + 1024], tmm1",
                "tilestored [{sums} + {stride} + 2048], tmm2",
                "tilestored [{sums} + {stride} + 3072], tmm3",
                a = inout(reg) rows[0].as_ptr() => _,
                b = inout(reg) rows[1].as_ptr() => _,
                c = inout(reg) panels[0].as_ptr() => _,
                d = inout(reg) panels[1].as_ptr() => _,
                sums = in(reg) sums.0.as_mut_ptr(),
                left = inout(reg) tiles => _,
                stride = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Tiles {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: there are tiles, since they were set up.
        unsafe { asm!("tilerelease", options(nostack)) };
    }
}
