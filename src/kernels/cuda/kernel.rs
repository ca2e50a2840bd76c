//! Kernels by their numbers, so that a launch looks nothing up by a name.

use super::{MODULES, Module};

/// One of the kernels of [`MODULES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The function's name.
    pub name: &'static str,
    /// Its place among all of them; behind the last where there is none of this name.
    pub number: usize,
}

impl Kernel {
    /// The kernel of this name: found while this is compiled, by `kernel!`.
    pub(super) const fn named(name: &'static str) -> Self {
        let (mut number, mut modules): (_, &[Module]) = (0, &MODULES);
        while let [module, rest @ ..] = modules {
            match place_in(module, name.as_bytes()) {
                Ok(place) => return Self { name, number: number + place },
                Err(count) => (number, modules) = (number + count, rest),
            }
        }
        Self { name, number }
    }

    /// The same kernel, if there is one of this name. Else what asks for it does not compile.
    pub(super) const fn known(self) -> Self {
        assert!(self.number < COUNT, "there is no kernel of this name");
        self
    }
}

/// How many kernels there are.
const COUNT: usize = Kernel::named("").number;

/// The kernel of a name, which need not be there.
macro_rules! named {
    ($name:expr) => {
        const { crate::kernels::cuda::kernel::Kernel::named($name) }
    };
}

/// The kernel of a name that is known here.
macro_rules! kernel {
    ($name:expr) => {
        const { crate::kernels::cuda::kernel::named!($name).known() }
    };
}

pub(super) use {kernel, named};

/// Whether there are kernels of a family for some types of weights.
pub(super) const fn is_family(name: &str) -> bool {
    let mut modules: &[Module] = &MODULES;
    while let [module, rest @ ..] = modules {
        let mut families = module.families;
        while let [(family, _), rest @ ..] = families {
            if let Some([]) = behind(name.as_bytes(), family.as_bytes()) {
                return true;
            }
            families = rest;
        }
        modules = rest;
    }
    false
}

/// The place of a name among [`Module::names`], or how many those are.
const fn place_in(module: &Module, name: &[u8]) -> Result<usize, usize> {
    let (mut place, mut functions, mut families) = (0, module.functions, module.families);
    while let [function, rest @ ..] = functions {
        if let Some([]) = behind(name, function.as_bytes()) {
            return Ok(place);
        }
        (place, functions) = (place + 1, rest);
    }
    while let [(family, types), rest @ ..] = families {
        let mut types = *types;
        while let [dtype, rest @ ..] = types {
            if let Some([b'_', own @ ..]) = behind(name, family.as_bytes())
                && let Some([]) = behind(own, dtype.as_bytes())
            {
                return Ok(place);
            }
            (place, types) = (place + 1, rest);
        }
        families = rest;
    }
    Err(place)
}

/// The rest of what begins so.
const fn behind<'a>(text: &'a [u8], start: &[u8]) -> Option<&'a [u8]> {
    match (text, start) {
        (rest, []) => Some(rest),
        ([one, text @ ..], [other, start @ ..]) if *one == *other => behind(text, start),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_all_names_in_a_row() {
        for (number, name) in MODULES.iter().flat_map(Module::names).enumerate() {
            let kernel = Kernel::named(name.clone().leak());
            assert_eq!((kernel.name, kernel.number), (name.as_str(), number));
        }
        assert_eq!(MODULES.iter().flat_map(Module::names).count(), COUNT);
        for name in ["", "gate_", "gated", "gated_q8_0x", "visits_gated_q8_0"] {
            assert_eq!(Kernel::named(name).number, COUNT, "{name}");
        }
        assert_eq!(kernel!("row_times_float"), Kernel { name: "row_times_float", number: 0 });
    }
}
