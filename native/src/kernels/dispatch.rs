//! The kernel set of this CPU, chosen once.

use super::{activation, attention, dense, lora, norm, quantised};
use std::sync::OnceLock;

/// Every kernel, compiled for one instruction set. Safety of each function: see the generic it instantiates.
pub struct Kernels {
    pub name: &'static str,
    pub shrink: unsafe fn(&lora::Shrink),
    pub expand: unsafe fn(&lora::Expand),
    pub attend: unsafe fn(&attention::Attend),
    /// `(gate, up, out, width)`.
    pub gated_silu: unsafe fn(*const f32, *const f32, *mut f32, usize),
    /// `(x, width, q, blocks)`.
    pub quantise_row: unsafe fn(*const f32, usize, *mut i8, *mut quantised::RowBlock),
    pub quantised_matmul: unsafe fn(&quantised::Matmul),
    pub dense_matmul: unsafe fn(&dense::Matmul),
    pub residual_norm: unsafe fn(&norm::Norm),
}

macro_rules! kernel_set {
    ($table:ident, $module:ident, $isa:ty, $dot:ty, $name:literal $(, $features:literal)?) => {
        mod $module {
            use super::*;
            // SAFETY (all): the caller keeps the generic's contract; the table is handed out only where the CPU
            // has these features.
            $(#[target_feature(enable = $features)])?
            pub unsafe fn shrink(args: &lora::Shrink) {
                unsafe { lora::shrink::<$isa, $dot>(args) }
            }
            $(#[target_feature(enable = $features)])?
            pub unsafe fn expand(args: &lora::Expand) {
                unsafe { lora::expand::<$isa, $dot>(args) }
            }
            $(#[target_feature(enable = $features)])?
            pub unsafe fn attend(args: &attention::Attend) {
                unsafe { attention::attend::<$isa>(args) }
            }
            $(#[target_feature(enable = $features)])?
            pub unsafe fn gated_silu(gate: *const f32, up: *const f32, out: *mut f32, width: usize) {
                unsafe { activation::gated_silu::<$isa>(gate, up, out, width) }
            }
            $(#[target_feature(enable = $features)])?
            pub unsafe fn quantise_row(x: *const f32, width: usize, q: *mut i8, blocks: *mut quantised::RowBlock) {
                unsafe { quantised::quantise_row::<$isa, $dot>(x, width, q, blocks) }
            }
            $(#[target_feature(enable = $features)])?
            pub unsafe fn quantised_matmul(args: &quantised::Matmul) {
                unsafe { quantised::matmul::<$isa, $dot>(args) }
            }
            $(#[target_feature(enable = $features)])?
            pub unsafe fn dense_matmul(args: &dense::Matmul) {
                unsafe { dense::matmul::<$isa>(args) }
            }
            $(#[target_feature(enable = $features)])?
            pub unsafe fn residual_norm(args: &norm::Norm) {
                unsafe { norm::residual_norm::<$isa>(args) }
            }
        }
        static $table: Kernels = Kernels {
            name: $name,
            shrink: $module::shrink,
            expand: $module::expand,
            attend: $module::attend,
            gated_silu: $module::gated_silu,
            quantise_row: $module::quantise_row,
            quantised_matmul: $module::quantised_matmul,
            dense_matmul: $module::dense_matmul,
            residual_norm: $module::residual_norm,
        };
    };
}

#[allow(clippy::undocumented_unsafe_blocks)]
mod sets {
    use super::*;
    use crate::kernels::simd::Portable;
    #[cfg(target_arch = "x86_64")]
    use crate::kernels::{x86::*, x86_dot::*};

    kernel_set!(PORTABLE, portable, Portable, Portable, "portable");
    #[cfg(target_arch = "x86_64")]
    kernel_set!(AVX2, avx2, Avx2, Wide256, "avx2", "avx2,fma,f16c");
    #[cfg(target_arch = "x86_64")]
    kernel_set!(AVX2_VNNI, avx2vnni, Avx2, Vnni256, "avx2vnni", "avx2,fma,f16c,avxvnni");
    #[cfg(target_arch = "x86_64")]
    kernel_set!(AVX512, avx512, Avx512, Wide512, "avx512", "avx512f,avx512bw,avx512vl,avx2,fma,f16c");
    #[cfg(target_arch = "x86_64")]
    kernel_set!(AVX512_VNNI, avx512vnni, Avx512, Vnni512, "avx512vnni", "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c");

    /// The sets this CPU can run, best first; `portable` is always last.
    pub fn available() -> Vec<&'static Kernels> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            // Each list is what the wrappers of `kernel_set!` enable.
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            let avx512 =
                is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl");
            if avx2 && avx512 {
                if is_x86_feature_detected!("avx512vnni") {
                    sets.push(&AVX512_VNNI);
                }
                sets.push(&AVX512);
            }
            if avx2 {
                if is_x86_feature_detected!("avxvnni") {
                    sets.push(&AVX2_VNNI);
                }
                sets.push(&AVX2);
            }
        }
        sets.push(&PORTABLE);
        sets
    }
}
pub use sets::available;

/// The best set of this CPU, or the one that the environment variable `LORAMUX_ISA` names (tests, bug reports).
///
/// # Errors
/// A name that is unknown or that this CPU lacks, with the names it has.
pub fn choose() -> Result<&'static Kernels, String> {
    static CHOSEN: OnceLock<Result<&'static Kernels, String>> = OnceLock::new();
    CHOSEN
        .get_or_init(|| {
            let sets = available();
            match std::env::var("LORAMUX_ISA") {
                Err(_) => sets.first().copied().ok_or_else(|| "no kernel set".to_owned()),
                Ok(name) => sets.iter().copied().find(|set| set.name == name).ok_or_else(|| {
                    let names: Vec<_> = sets.iter().map(|set| set.name).collect();
                    format!("LORAMUX_ISA={name} is not one of this CPU's kernel sets ({}): unset it or name one of them", names.join(", "))
                }),
            }
        })
        .clone()
}
