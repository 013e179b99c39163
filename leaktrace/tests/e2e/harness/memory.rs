//! What a trace leaves in the machine: breakpoints in code, and objects in the kernel.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// One executable mapping of a process.
struct Text {
    start: u64,
    end: u64,
    offset: u64,
    path: String,
}

fn texts(pid: u32) -> io::Result<Vec<Text>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let parse = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let (start, end) = fields[0].split_once('-')?;
        let path = fields.get(5).filter(|path| path.starts_with('/'))?;
        let number = |digits| u64::from_str_radix(digits, 16).ok();
        let text =
            Text { start: number(start)?, end: number(end)?, offset: number(fields[2])?, path: (*path).to_owned() };
        fields[1].contains('x').then_some(text)
    };
    Ok(maps.lines().filter_map(parse).collect())
}

/// The places, as `path+file offset`, where a process's code differs from its file's and holds a breakpoint.
///
/// Code is mapped from files and never relocated on the platforms we run on, so that every difference was put there.
pub fn breakpoints(pid: u32) -> BTreeSet<String> {
    try_breakpoints(pid).expect("the process lives")
}

/// Whether any of the breakpoints in a process is in this file.
pub fn is_probed(pid: u32, file: &Path) -> bool {
    let file = file.to_str().expect("a path of the tests");
    breakpoints(pid).iter().any(|place| place.starts_with(file))
}

/// [`breakpoints`] of a process that may be gone.
pub fn try_breakpoints(pid: u32) -> io::Result<BTreeSet<String>> {
    const INT3: u8 = 0xCC;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut found = BTreeSet::new();
    for text in texts(pid)? {
        let mut mapped = vec![0; (text.end - text.start) as usize];
        let mut filed = mapped.clone();
        memory.read_exact_at(&mut mapped, text.start)?;
        // The last page of a mapping may reach past the end of the file: zeros in both.
        let file = File::open(&text.path)?;
        let mut n = 0;
        while let Ok(more @ 1..) = file.read_at(&mut filed[n..], text.offset + n as u64) {
            n += more;
        }
        for (at, (mapped, filed)) in mapped.iter().zip(&filed).enumerate() {
            if mapped != filed && *mapped == INT3 {
                found.insert(format!("{}+{:#x}", text.path, text.offset + at as u64));
            }
        }
    }
    Ok(found)
}

/// The code of one file in one process, to be compared again and again as fast as can be.
pub struct Code {
    memory: File,
    start: u64,
    filed: Vec<u8>,
    /// Where it begins in the file.
    pub offset: u64,
}

impl Code {
    /// Of the file at that path, which the process has mapped.
    pub fn of(pid: u32, path: &str) -> Self {
        let text = texts(pid).expect("the process lives").into_iter().find(|text| text.path == path);
        let text = text.expect("it has mapped the file");
        let mut filed = vec![0; (text.end - text.start) as usize];
        File::open(path)
            .and_then(|file| file.read_exact_at(&mut filed, text.offset))
            .expect("text is not a file's end");
        let memory = File::open(format!("/proc/{pid}/mem")).expect("root may read it");
        Self { memory, start: text.start, filed, offset: text.offset }
    }

    /// Whether somebody has put a breakpoint into it.
    pub fn is_changed(&self) -> bool {
        let mut mapped = vec![0; self.filed.len()];
        self.memory.read_exact_at(&mut mapped, self.start).expect("the process lives");
        mapped != self.filed
    }
}

/// The kernel's numbers of the BPF programs, maps and links that a process holds, as `kind:number`.
pub fn bpf_objects(pid: u32) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("the process lives").flatten() {
        // Descriptors may close while we look.
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        for line in info.lines() {
            let mut fields = line.split_ascii_whitespace();
            if let (Some(key @ ("prog_id:" | "map_id:" | "link_id:")), Some(number)) = (fields.next(), fields.next()) {
                found.insert(format!("{}:{number}", key.trim_end_matches("_id:")));
            }
        }
    }
    found
}

/// Whether the kernel still has the object that [`bpf_objects`] named.
pub fn bpf_object_exists(object: &str) -> bool {
    // Commands of bpf(2), from linux/bpf.h: BPF_{PROG,MAP,LINK}_GET_FD_BY_ID.
    let (kind, number) = object.split_once(':').expect("kind:number");
    let command = match kind {
        "prog" => 13,
        "map" => 14,
        "link" => 30,
        _ => panic!("no such kind: {kind}"),
    };
    // union bpf_attr, of which these commands read {u32 id; u32 next_id; u32 open_flags}; zeros beyond are accepted.
    let mut attribute = [0_u32; 32];
    attribute[0] = number.parse().expect("a number");
    // SAFETY: the attribute outlives the call and its size is the one passed.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_mut_ptr(), size_of_val(&attribute)) };
    if fd >= 0 {
        // SAFETY: the descriptor was just opened and nobody else knows it.
        unsafe { libc::close(fd as i32) };
        return true;
    }
    let error = std::io::Error::last_os_error();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{object}: {error}");
    false
}

/// What is pinned under /sys/fs/bpf.
pub fn pinned() -> BTreeSet<String> {
    fn walk(directory: &std::path::Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            found.insert(entry.path().display().to_string());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), found);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(std::path::Path::new("/sys/fs/bpf"), &mut found);
    found
}

/// The state letter of a process or thread: R running, S sleeping, T stopped, t traced and stopped, Z dead.
pub fn state(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name, which stands in parentheses and may hold anything.
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('X')
}
