//! Memory for O_DIRECT: page-aligned, zeroed, and on huge pages where it is large enough to have any.

#![expect(
    unsafe_code,
    reason = "memory straight from mmap: the allocator gives neither huge pages nor their alignment"
)]

use std::ops::{Deref, DerefMut};
use std::ptr::{NonNull, null_mut};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::error::{Error, Result};

/// Bytes in a page: what every device accepts as alignment for O_DIRECT.
const PAGE: usize = 4096;
/// Bytes in a huge page. O_DIRECT into small pages reaches a third of the speed on some machines.
const HUGE: usize = 2 << 20;

/// Zeroed bytes that start at a multiple of 4096, or of 2 MiB from that length on.
#[derive(Debug)]
pub struct AlignedBuf {
    start: NonNull<u8>,
    len: usize,
    /// Bytes mapped from `start`: `len`, rounded up.
    mapped: usize,
}

// SAFETY: the mapping belongs to this value alone, as the memory of a `Vec` does.
unsafe impl Send for AlignedBuf {}
// SAFETY: a shared reference only reads; who writes through `as_mut_ptr` answers for it.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `len` zeroes. Fails if the address space or the memory limit does not allow it.
    pub fn new(len: usize) -> Result<Self> {
        let align = if len >= HUGE { HUGE } else { PAGE };
        // One alignment more than needed, to be able to cut an aligned piece out.
        let sizes =
            len.max(1).checked_next_multiple_of(align).and_then(|mapped| Some((mapped, mapped.checked_add(align)?)));
        let (mapped, whole) = sizes.ok_or_else(|| Error::invalid("a buffer beyond the address space"))?;
        let failed = |errno| Error::from(errno).context("cannot get memory for a buffer");
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice: nothing refers to it yet.
        let base = unsafe { mmap_anonymous(null_mut(), whole, prot, flags) }.map_err(failed)?.cast::<u8>();
        let head = base.align_offset(align);
        // SAFETY: `head` is less than `align`, so `start..start + mapped` lies inside the mapping.
        let start = unsafe { base.add(head) };
        // SAFETY: both pieces lie inside the mapping, around `start..start + mapped`, and nothing refers to them.
        unsafe {
            unmap(base, head);
            unmap(start.add(mapped), align - head);
        }
        if align == HUGE {
            // SAFETY: advice on the mapping that was just made; it changes no contents. Refusal costs speed only.
            let _ = unsafe { madvise(start.cast(), mapped, Advice::LinuxHugepage) };
        }
        let start = NonNull::new(start).ok_or_else(|| Error::invalid("the kernel mapped address 0"))?;
        Ok(Self { start, len, mapped })
    }

    /// Takes every page from the kernel now: a first touch is expensive, and must not happen in the data path.
    pub fn touch(&mut self) {
        self.iter_mut().step_by(PAGE).for_each(|byte| {
            // SAFETY: `byte` is a valid reference. Volatile, because a plain store of what is there is optimised away.
            unsafe { std::ptr::write_volatile(byte, *byte) }
        });
    }

    /// The first byte, for the kernel to write to: no reference to the bytes that it writes may exist meanwhile.
    pub(super) fn as_mut_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` are mapped and initialised (zeroed) as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` keeps others away.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` kept of its mapping; nobody can refer to it any more.
        unsafe { unmap(self.start.as_ptr(), self.mapped) }
    }
}

/// Unmaps `len` bytes, or none.
///
/// # Safety
/// They are mapped, start at a page, and nothing refers to them.
unsafe fn unmap(start: *mut u8, len: usize) {
    if len > 0 {
        // SAFETY: the caller's promise. Failing would leak the memory, no more.
        let _ = unsafe { munmap(start.cast(), len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(len: usize, align: usize) {
        let mut buf = AlignedBuf::new(len).unwrap();
        assert_eq!(buf.as_mut_ptr().addr() % align, 0);
        assert_eq!(buf.len(), len);
        buf.touch();
        assert!(buf.iter().all(|byte| *byte == 0));
        buf.fill(7);
        buf.touch();
        assert!(buf.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn buffers_are_aligned_zeroed_and_writable() {
        for len in [0, 1, 4095, 4096, 4097, HUGE - 1] {
            check(len, PAGE);
        }
        for len in [HUGE, HUGE + 1, 3 * HUGE] {
            check(len, HUGE);
        }
        assert!(AlignedBuf::new(usize::MAX).is_err());
        assert!(AlignedBuf::new(usize::MAX / 4).is_err());
    }
}
