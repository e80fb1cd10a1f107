//! The game's memory on Windows: named file mappings of the player's logon session.
//!
//! This is the only unsafe code of the source. It opens existing mappings read-only and takes none
//! of the game's locks: a reader that is suspended while it holds a lock would stall the game.
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
pub struct SessionMappings;

impl Memory for SessionMappings {
    fn open(&self, region: Region) -> io::Result<Box<dyn Mapping>> {
        let view = MappedView::open(region.name())?;
        if view.size < region.size() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the region is too small"));
        }
        Ok(Box::new(view))
    }
}

/// A view of a whole mapping. It stays readable until it is dropped, even if the owner closes the
/// mapping.
#[derive(Debug)]
struct MappedView {
    base: NonNull<u8>,
    /// The number of readable bytes from `base`: whole pages.
    size: usize,
}

// SAFETY: `base` points to memory of the process, not of a thread, and nothing here writes to it.
unsafe impl Send for MappedView {}

impl MappedView {
    fn open(name: &str) -> io::Result<Self> {
        let name: Vec<u16> = name.encode_utf16().chain([0]).collect();
        // SAFETY: the name ends with a NUL and outlives the call. Length 0 maps everything. The
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
        // From here on, dropping `view` unmaps the memory.
        let mut view = Self { base: address.cast(), size: 0 };
        let mut about = MEMORY_BASIC_INFORMATION::default();
        let about_size = size_of_val(&about);
        // SAFETY: `about` has room for one result of `about_size` bytes.
        let written = unsafe { VirtualQuery(address.as_ptr(), &raw mut about, about_size) };
        if written == 0 {
            return Err(io::Error::last_os_error());
        }
        view.size = about.RegionSize;
        Ok(view)
    }

    /// The address of the `length` bytes at `at`, if they are inside the view.
    fn place(&self, at: usize, length: usize) -> io::Result<*mut u8> {
        let is_inside = at.checked_add(length).is_some_and(|end| end <= self.size);
        // This only computes an address; each read through it has its own safety comment.
        is_inside
            .then(|| self.base.as_ptr().wrapping_add(at))
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl Drop for MappedView {
    fn drop(&mut self) {
        let address = self.base.as_ptr().cast::<c_void>();
        // SAFETY: mapped by `open`, unmapped only here, and no pointer into it outlives the view.
        unsafe { UnmapViewOfFile(MEMORY_MAPPED_VIEW_ADDRESS { Value: address }) };
    }
}

impl Mapping for MappedView {
    fn read(&self, at: usize, bytes: &mut [u8]) -> io::Result<()> {
        let from = self.place(at, bytes.len())?;
        for (index, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: `place` has checked that the byte is inside the view. Another process may
            // write here, so it is read as an atomic and never borrowed as plain bytes.
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
        // SAFETY: inside the view and read as an atomic, see `read`; the alignment is checked
        // above.
        let counter = unsafe { AtomicU32::from_ptr(from) }.load(Ordering::Acquire);
        Ok(u32::from_le(counter))
    }
}
