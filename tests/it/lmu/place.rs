//! The memory of a fake game: files, as a bridge exposes them, or named memory as on Windows.

use std::path::Path;

use pitwire::source::lmu::memory::Region;

pub use self::system::Place;

#[cfg(unix)]
mod system {
    use std::fs::{self, File, OpenOptions};
    use std::os::unix::fs::FileExt;

    use super::{Path, Region};

    /// A region as a file.
    pub struct Place(File);

    impl Place {
        /// Creates the file under a temporary name and renames it, so that it appears atomically.
        pub fn appear(folder: &Path, region: Region, bytes: &[u8]) -> Self {
            let making = folder.join("making");
            // Bridges make the files larger than the game's data.
            fs::write(&making, [bytes, &[0; 1000]].concat()).unwrap();
            let file = OpenOptions::new().write(true).open(&making).unwrap();
            fs::rename(&making, folder.join(region.name())).unwrap();
            Self(file)
        }

        pub fn write(&self, at: usize, bytes: &[u8]) {
            self.0.write_all_at(bytes, at as u64).unwrap();
        }
    }
}

#[cfg(windows)]
#[allow(unsafe_code, reason = "mapped memory has no safe form")]
mod system {
    use std::ptr::{NonNull, null};

    use windows_sys::Win32::Foundation::{CloseHandle, HANDLE, INVALID_HANDLE_VALUE};
    use windows_sys::Win32::System::Memory::{
        CreateFileMappingW, FILE_MAP_WRITE, MEMORY_MAPPED_VIEW_ADDRESS, MapViewOfFile,
        PAGE_READWRITE, UnmapViewOfFile,
    };

    use super::{Path, Region};

    /// A region as named memory, released when this is dropped.
    pub struct Place {
        handle: HANDLE,
        base: NonNull<u8>,
        size: usize,
    }

    impl Place {
        pub fn appear(_: &Path, region: Region, bytes: &[u8]) -> Self {
            let name: Vec<u16> = region.name().encode_utf16().chain([0]).collect();
            let size = bytes.len();
            // SAFETY: the name ends with a NUL and outlives the call; no file and no attributes.
            let handle = unsafe {
                CreateFileMappingW(
                    INVALID_HANDLE_VALUE,
                    null(),
                    PAGE_READWRITE,
                    0,
                    size as u32,
                    name.as_ptr(),
                )
            };
            assert!(!handle.is_null(), "{}", std::io::Error::last_os_error());
            // SAFETY: the handle belongs to a mapping; length 0 maps all of it.
            let address = unsafe { MapViewOfFile(handle, FILE_MAP_WRITE, 0, 0, 0) };
            let base = NonNull::new(address.Value).expect("a view").cast();
            let place = Self { handle, base, size };
            place.write(0, bytes);
            place
        }

        pub fn write(&self, at: usize, bytes: &[u8]) {
            assert!(at + bytes.len() <= self.size);
            for (index, byte) in bytes.iter().enumerate() {
                // SAFETY: in bounds, as asserted above; other processes read the view at the same
                // time.
                unsafe { self.base.as_ptr().add(at + index).write_volatile(*byte) };
            }
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let address = MEMORY_MAPPED_VIEW_ADDRESS { Value: self.base.as_ptr().cast() };
            // SAFETY: mapped and opened by `appear`, released only here.
            unsafe {
                UnmapViewOfFile(address);
                CloseHandle(self.handle);
            }
        }
    }
}
