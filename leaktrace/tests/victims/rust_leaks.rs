//! What a Rust program leaks through the standard library's system allocator.
//!
//! The same conversation as victim.h; standard output is written unbuffered, so that talking allocates nothing.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;

const ROUNDS: usize = 20;

#[derive(Default)]
struct Site {
    bytes: usize,
    count: usize,
}

impl Site {
    fn book(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.count += 1;
    }
}

#[repr(align(128))]
struct Wide([u8; 256]);

mod leaks {
    use super::{VecDeque, Wide};

    #[inline(never)]
    pub fn leak_box(n: u64) -> &'static mut [u64; 9] {
        Box::leak(Box::new([n; 9]))
    }

    #[inline(never)]
    pub fn leak_vec(n: usize) -> Vec<u32> {
        Vec::with_capacity(n)
    }

    #[inline(never)]
    pub fn leak_string(n: usize) -> String {
        String::with_capacity(n)
    }

    #[inline(never)]
    pub fn leak_zeroed(n: usize) -> Vec<u8> {
        vec![0; n]
    }

    /// Grows by realloc: one block stays, of the capacity it ended with.
    #[inline(never)]
    pub fn leak_grown(n: usize) -> Vec<u16> {
        let mut v = Vec::new();
        for i in 0..n {
            v.push(i as u16);
        }
        v
    }

    /// Alignment beyond the allocator's own: posix_memalign.
    #[inline(never)]
    pub fn leak_wide(n: u8) -> Box<Wide> {
        Box::new(Wide([n; 256]))
    }

    #[inline(never)]
    pub fn leak_and_drop(n: usize) -> VecDeque<u8> {
        VecDeque::with_capacity(n)
    }
}

pub fn main() {
    let waits = std::env::args_os().nth(1).is_some_and(|mode| mode == "wait");
    // SAFETY: 0 and 1 are open from the start, and nothing else in this program uses or closes them.
    let (mut input, mut output) = unsafe { (File::from_raw_fd(0), File::from_raw_fd(1)) };
    let mut await_byte = |say: &[u8], output: &mut File| {
        if waits {
            output.write_all(say).unwrap();
            input.read_exact(&mut [0]).unwrap();
        }
    };
    await_byte(b"ready\n", &mut output);

    let mut sites: [(&str, Site); 7] = [
        ("leak_box", Site::default()),
        ("leak_vec", Site::default()),
        ("leak_string", Site::default()),
        ("leak_zeroed", Site::default()),
        ("leak_grown", Site::default()),
        ("leak_wide", Site::default()),
        ("leak_and_drop", Site::default()),
    ];
    for i in 1..=ROUNDS {
        std::hint::black_box(leaks::leak_box(i as u64));
        sites[0].1.book(72);
        let v = std::hint::black_box(leaks::leak_vec(10 * i));
        sites[1].1.book(v.capacity() * 4);
        std::mem::forget(v);
        let s = std::hint::black_box(leaks::leak_string(33 * i));
        sites[2].1.book(s.capacity());
        std::mem::forget(s);
        let z = std::hint::black_box(leaks::leak_zeroed(500 * i));
        sites[3].1.book(z.capacity());
        std::mem::forget(z);
        let g = std::hint::black_box(leaks::leak_grown(100 * i));
        sites[4].1.book(g.capacity() * 2);
        std::mem::forget(g);
        let w = leaks::leak_wide(i as u8);
        std::hint::black_box(w.0[0]);
        sites[5].1.book(256);
        std::mem::forget(w);
        drop(std::hint::black_box(leaks::leak_and_drop(64 * i)));
    }

    let mut line = [0_u8; 256];
    for (name, site) in &sites {
        let mut rest = &mut line[..];
        let (bytes, count, pid) = (site.bytes, site.count, std::process::id());
        writeln!(rest, r#"{{"site":"{name}","pid":{pid},"bytes":{bytes},"count":{count}}}"#).unwrap();
        let unused = rest.len();
        let length = line.len() - unused;
        output.write_all(&line[..length]).unwrap();
    }
    await_byte(b"done\n", &mut output);
}
