//! Process priority: the agent runs at a lower priority than the game.

/// The `nice` value of the agent on Linux, 0 to 19. On Windows its priority is "below normal".
pub const NICENESS: i32 = 5;

/// Lowers the priority of this process. If this fails, the priority is unchanged and the failure is
/// logged.
pub(super) fn lower() {
    if let Err(error) = system::lower() {
        tracing::debug!(%error, "cannot lower the priority of the process");
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;

    use super::NICENESS;

    pub(super) fn lower() -> io::Result<()> {
        rustix::process::nice(NICENESS)?;
        Ok(())
    }
}

#[cfg(windows)]
#[allow(unsafe_code, reason = "a function of Windows, with no safe form")]
mod system {
    use std::io;

    use windows_sys::Win32::System::Threading::{
        BELOW_NORMAL_PRIORITY_CLASS, GetCurrentProcess, SetPriorityClass,
    };

    pub(super) fn lower() -> io::Result<()> {
        // SAFETY: the pseudo-handle of this process is always valid and needs no closing; no
        // pointers are passed.
        let done = unsafe { SetPriorityClass(GetCurrentProcess(), BELOW_NORMAL_PRIORITY_CLASS) };
        if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(not(any(target_os = "linux", windows)))]
mod system {
    pub(super) fn lower() -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(all(test, windows))]
mod tests {
    use windows_sys::Win32::System::Threading::{
        BELOW_NORMAL_PRIORITY_CLASS, GetCurrentProcess, GetPriorityClass,
    };

    #[test]
    #[allow(unsafe_code, reason = "a function of Windows, with no safe form")]
    fn lowering_the_priority_sets_it_below_normal() {
        super::lower();
        // SAFETY: the pseudo-handle of this process is always valid and needs no closing.
        assert_eq!(unsafe { GetPriorityClass(GetCurrentProcess()) }, BELOW_NORMAL_PRIORITY_CLASS);
    }
}
