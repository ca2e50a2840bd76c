//! The memory that this process may have.

use sysinfo::{Process, ProcessRefreshKind, ProcessesToUpdate, System, get_current_pid};

/// In bytes, where the system tells.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    available: Option<u64>,
    total: Option<u64>,
    /// The bound on the control group, which files that were read count against only until somebody needs the room.
    of_group: Option<u64>,
}

impl Memory {
    pub(super) fn read() -> Self {
        let Some((mut system, pid)) = System::new().ok().zip(get_current_pid().ok()) else { return Self::default() };
        system.refresh_memory();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, ProcessRefreshKind::nothing());
        let of_group = system.process(pid).and_then(Process::cgroup_limits).map(|limits| limits.total_memory);
        Self { available: Some(system.available_memory()), total: Some(system.total_memory()), of_group }
    }

    /// What there is now, and by whose word.
    pub(super) fn available(self) -> (usize, &'static str) {
        let bounds = [(self.available, "available"), (self.of_group, "bound on the control group")];
        let least = bounds.into_iter().filter_map(|(bytes, of)| Some((bytes?, of))).min();
        least.map_or((usize::MAX, "available"), |(bytes, of)| (usize::try_from(bytes).unwrap_or(usize::MAX), of))
    }

    /// What may be had at most, whatever others have of it now.
    pub(super) fn limit(self) -> Option<u64> {
        self.total.into_iter().chain(self.of_group).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_bound_counts() {
        let memory = Memory { available: Some(5), total: Some(9), of_group: None };
        assert_eq!((memory.available(), memory.limit()), ((5, "available"), Some(9)));
        let bounded = |of_group| Memory { of_group: Some(of_group), ..memory };
        assert_eq!(bounded(4).available(), (4, "bound on the control group"));
        assert_eq!([bounded(4).limit(), bounded(10).limit()], [Some(4), Some(9)]);
        assert_eq!((Memory::default().available().0, Memory::default().limit()), (usize::MAX, None));
    }
}
