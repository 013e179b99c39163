//! BPF array maps as memory: mapped once, read without system calls while the programs write.

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, bail};
use aya::maps::Map;
use aya::{Ebpf, Pod};
use leaktrace_common::table::{Bucket, Buckets};
use memmap2::{MmapOptions, MmapRaw};

/// An array map of `T`, mapped shared.
pub struct MappedArray<T> {
    memory: MmapRaw,
    len: u32,
    element: PhantomData<T>,
}

impl<T> MappedArray<T> {
    /// Maps the array called `name`.
    pub fn new(ebpf: &Ebpf, name: &str) -> Result<Self> {
        let map = ebpf.map(name).with_context(|| format!("the BPF object has no map {name}"))?;
        let Map::Array(data) = map else { bail!("the BPF object's map {name} is not an array") };
        let info = data.info().with_context(|| format!("cannot ask for the size of the map {name}"))?;
        if info.value_size() as usize != size_of::<T>() {
            bail!("the BPF object's map {name} holds values of {} bytes, not {}", info.value_size(), size_of::<T>());
        }
        let len = info.max_entries();
        let memory = MmapOptions::new()
            .len(len as usize * size_of::<T>())
            .map_raw(data.fd().as_fd().as_raw_fd())
            .with_context(|| format!("cannot map the BPF map {name} into memory"))?;
        Ok(Self { memory, len, element: PhantomData })
    }

    /// Elements of the array.
    pub fn elements(&self) -> u32 {
        self.len
    }

    /// A pointer to the element at `index`, `None` out of bounds.
    pub fn pointer(&self, index: u32) -> Option<*mut T> {
        (index < self.len).then(|| self.memory.as_mut_ptr().cast::<T>().wrapping_add(index as usize))
    }
}

impl<T: Pod> MappedArray<T> {
    /// A copy of the element at `index`. Another CPU may be writing it: fields of one word are whole, the element
    /// need not be.
    pub fn read(&self, index: u32) -> Option<T> {
        // SAFETY: in bounds, aligned (map values begin at a multiple of 8 and have such a size), any bits are valid.
        self.pointer(index).map(|pointer| unsafe { pointer.read_volatile() })
    }
}

impl Buckets for MappedArray<Bucket> {
    fn count(&self) -> u32 {
        self.len
    }

    fn bucket(&self, index: u32) -> Option<*mut Bucket> {
        self.pointer(index)
    }
}
