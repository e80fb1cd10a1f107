//! The game's memory on Windows: named mappings of the session that the player is logged on to.
//!
//! The only place of the source with unsafe code. It opens what is there, read-only, and takes no
//! lock of the game's: a reader that is suspended with a lock stalls the game.
#![allow(unsafe_code, reason = "mapped memory has no safe form")]

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering, fence};

use windows_sys::Win32::Foundation::CloseHandle;
use windows_sys::Win32::System::Memory::{
    FILE_MAP_READ, MEMORY_BASIC_INFORMATION, MEMORY_MAPPED_VIEW_ADDRESS, MapViewOfFile,
    OpenFileMappingW, UnmapViewOfFile, VirtualQuery,
};

use super::memory::{Mapping, Memory, Region};

/// The named mappings of this process's logon session.
#[derive(Debug)]
pub struct Session;

impl Memory for Session {
    fn open(&self, region: Region) -> io::Result<Box<dyn Mapping>> {
        let view = View::open(region.name())?;
        if view.size < region.size() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no such region"));
        }
        Ok(Box::new(view))
    }
}

/// The whole of a mapping, readable until it is dropped, whoever else lets go of it.
#[derive(Debug)]
struct View {
    base: NonNull<u8>,
    /// Bytes from `base` on that can be read: whole pages.
    size: usize,
}

// SAFETY: `base` points to memory of the process, not of a thread, and nothing here writes to it.
unsafe impl Send for View {}

impl View {
    fn open(name: &str) -> io::Result<Self> {
        let name: Vec<u16> = name.encode_utf16().chain([0]).collect();
        // SAFETY: the name ends with a NUL and outlives the call. Length 0 maps the whole. The
        // handle is closed once; a view does not need it.
        let address = unsafe {
            let handle = OpenFileMappingW(FILE_MAP_READ, 0, name.as_ptr());
            if handle.is_null() {
                return Err(io::Error::last_os_error());
            }
            let address = MapViewOfFile(handle, FILE_MAP_READ, 0, 0, 0).Value;
            let error = io::Error::last_os_error();
            CloseHandle(handle);
            NonNull::new(address).ok_or(error)?
        };
        // From here on dropping it unmaps it.
        let mut view = Self { base: address.cast(), size: 0 };
        let mut about = MEMORY_BASIC_INFORMATION::default();
        let about_size = size_of_val(&about);
        // SAFETY: `about` is a place for one answer of the size that is told.
        let written = unsafe { VirtualQuery(address.as_ptr(), &raw mut about, about_size) };
        if written == 0 {
            return Err(io::Error::last_os_error());
        }
        view.size = about.RegionSize;
        Ok(view)
    }

    /// The address of `length` bytes from `at` on.
    fn place(&self, at: usize, length: usize) -> io::Result<*mut u8> {
        let is_inside = at.checked_add(length).is_some_and(|end| end <= self.size);
        // Only an address: what is read through it says why it may.
        is_inside
            .then(|| self.base.as_ptr().wrapping_add(at))
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let address = self.base.as_ptr().cast::<c_void>();
        // SAFETY: mapped by `open`, unmapped once, and nobody has a pointer into it any more.
        unsafe { UnmapViewOfFile(MEMORY_MAPPED_VIEW_ADDRESS { Value: address }) };
    }
}

impl Mapping for View {
    fn read(&self, at: usize, bytes: &mut [u8]) -> io::Result<()> {
        let from = self.place(at, bytes.len())?;
        for (index, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: inside the view, as `place` has checked. Another process writes here
            // meanwhile, so it is read as an atomic and never borrowed as plain bytes.
            *byte = unsafe { AtomicU8::from_ptr(from.wrapping_add(index)) }.load(Ordering::Relaxed);
        }
        Ok(())
    }

    fn counter(&self, at: usize) -> io::Result<u32> {
        let from = self.place(at, size_of::<u32>())?.cast::<u32>();
        if !from.is_aligned() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        fence(Ordering::Acquire);
        // SAFETY: as in `read`; aligned as an atomic must be.
        let counter = unsafe { AtomicU32::from_ptr(from) }.load(Ordering::Acquire);
        Ok(u32::from_le(counter))
    }
}
