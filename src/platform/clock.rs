//! The clocks of the system: the wall clock, which may be wrong and may be set, and the uptime,
//! which only advances. No other module reads the wall clock.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::entry::CapturedAt;

/// The longest time between reading one clock and the other; a longer one is read again, because
/// it would look like a step of the wall clock.
const MAX_READ_MS: i64 = 5;

/// How often both clocks are read at most; a stalled machine gets the last reading.
const MAX_READS: u32 = 5;

/// Returns the current time in milliseconds since 1970; 0 if the clock is set before that.
pub fn now() -> CapturedAt {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    CapturedAt(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// What both clocks show at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub wall: CapturedAt,
    /// Milliseconds since the system booted, including the time that it was suspended. Nothing
    /// sets this clock.
    pub uptime_ms: i64,
}

/// The clocks of the system, or those of a test.
#[derive(Clone)]
pub struct Clock {
    boot: Arc<str>,
    read: Arc<dyn Fn() -> Reading + Send + Sync>,
}

impl Clock {
    /// The clocks of this system.
    pub fn system() -> Self {
        Self::new(&system::boot(), read)
    }

    /// Other clocks. `boot` identifies what `uptime_ms` counts from: readings of two clocks are
    /// comparable only if it is equal and not empty.
    pub fn new(boot: &str, read: impl Fn() -> Reading + Send + Sync + 'static) -> Self {
        Self { boot: boot.into(), read: Arc::new(read) }
    }

    pub fn read(&self) -> Reading {
        (self.read)()
    }

    /// The identifier of this boot of the system; empty if the system has none.
    pub(crate) fn boot(&self) -> &str {
        &self.boot
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("boot", &self.boot).finish_non_exhaustive()
    }
}

fn read() -> Reading {
    let mut reads = 1;
    loop {
        let before = system::uptime_ms();
        let wall = now();
        let uptime_ms = system::uptime_ms();
        if uptime_ms - before <= MAX_READ_MS || reads == MAX_READS {
            return Reading { wall, uptime_ms };
        }
        reads += 1;
    }
}

#[cfg(target_os = "linux")]
mod system {
    /// By libc: `rustix` calls the vDSO itself, which crashes under Valgrind.
    #[allow(unsafe_code, reason = "the system's own call has no safe form")]
    pub(super) fn uptime_ms() -> i64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a valid `timespec`. The call cannot fail for this clock.
        unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
        time.tv_sec * 1000 + time.tv_nsec / 1_000_000
    }

    /// Linux draws a random identifier at each boot.
    pub(super) fn boot() -> String {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.trim().to_owned()
    }
}

#[cfg(windows)]
mod system {
    use windows_registry::LOCAL_MACHINE;
    use windows_sys::Win32::System::SystemInformation::GetTickCount64;

    /// Where Windows counts its boots.
    const KEY: &str = concat!(
        r"SYSTEM\CurrentControlSet\Control\Session Manager",
        r"\Memory Management\PrefetchParameters"
    );

    #[allow(unsafe_code, reason = "the system's own call has no safe form")]
    pub(super) fn uptime_ms() -> i64 {
        // SAFETY: the function has no preconditions.
        let ticks = unsafe { GetTickCount64() };
        i64::try_from(ticks).unwrap_or(i64::MAX)
    }

    pub(super) fn boot() -> String {
        let count = LOCAL_MACHINE.open(KEY).and_then(|key| key.get_u32("BootId"));
        count.map(|count| count.to_string()).unwrap_or_default()
    }
}

/// Elsewhere the time since the process first asked, which tells nothing about other processes.
#[cfg(not(any(target_os = "linux", windows)))]
mod system {
    use std::sync::LazyLock;
    use std::time::Instant;

    pub(super) fn uptime_ms() -> i64 {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        i64::try_from(START.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    pub(super) fn boot() -> String {
        String::new()
    }
}
