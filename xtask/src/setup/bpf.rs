//! What it takes to build the BPF object: a rustc with `core` for `bpfel-unknown-none`, and a bpf-linker whose LLVM is not
//! older than that rustc's. There are two roads:
//!
//! - Debian 12's own packages: `rustc-web` with a prebuilt `core` for BPF, and the LLVM to build bpf-linker against. The
//!   committed object is built this way.
//! - rustup and cargo-binstall anywhere else: the same release of rustc with `rust-src`, from which cargo builds `core`, and
//!   bpf-linker as its project publishes it.
//!
//! bpf-linker goes into `target/tools`, so that whatever the user has in `~/.cargo/bin` stays as it is.

use super::apt;
use crate::{shell, workspace};
use anyhow::{Context as _, Result, anyhow, bail};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of bpf-linker that we build with.
const BPF_LINKER: &str = "0.13.0";
/// The LLVM inside the binaries that bpf-linker's project publishes of that version (its default feature `llvm-23`).
const BPF_LINKER_BUNDLED_LLVM: u32 = 23;
/// The LLVM versions that bpf-linker of that version can be built against (its features `llvm-21` to `llvm-23`).
const BPF_LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;
/// The rustup way uses the release that Debian's packages have. It is fixed, so that its LLVM is not newer than
/// bpf-linker's.
const RUSTUP_TOOLCHAIN: &str = "1.96.0";
/// Debian's rustc, and the packages that give it `core` for BPF.
const DISTRIBUTION_RUSTC: &str = "/usr/bin/rustc";
const DISTRIBUTION_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
/// The target's name in rustc.
pub const TARGET: &str = "bpfel-unknown-none";

/// Which compiler builds the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// The distribution's rustc, with a prebuilt `core`.
    Distribution,
    /// rustup's toolchain of that name, which builds `core` from `rust-src`.
    Rustup(&'static str),
}

/// A compiler and a linker that fit each other.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// Release, commit and origin, as `rustc --version` prints them.
    pub rustc: String,
    /// rustc's LLVM, `22.1.8`.
    pub llvm: String,
    /// Path of bpf-linker.
    pub linker: PathBuf,
    /// Version of bpf-linker and of its LLVM.
    pub linker_version: String,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, LLVM {}, {}", self.rustc, self.llvm, self.linker_version)
    }
}

impl Compiler {
    /// rustc of this compiler.
    fn rustc(&self) -> Command {
        match self {
            Compiler::Distribution => Command::new(DISTRIBUTION_RUSTC),
            Compiler::Rustup(toolchain) => rustup_run(toolchain, "rustc"),
        }
    }

    /// cargo that compiles with this compiler.
    pub fn cargo(&self) -> Command {
        match self {
            Compiler::Distribution => {
                let mut cargo = shell::cargo();
                cargo.env("RUSTC", DISTRIBUTION_RUSTC);
                cargo
            }
            Compiler::Rustup(toolchain) => rustup_run(toolchain, "cargo"),
        }
    }

    /// Where its standard library's files are, sources included.
    pub fn sysroot(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(shell::output(self.rustc().args(["--print", "sysroot"]))?.trim()))
    }

    /// Whether it can compile for BPF.
    fn is_ready(&self) -> bool {
        let part = match self {
            Compiler::Distribution => format!("lib/rustlib/{TARGET}"),
            Compiler::Rustup(_) => "lib/rustlib/src/rust/library/core".into(),
        };
        self.sysroot().is_ok_and(|sysroot| sysroot.join(part).is_dir())
    }

    /// Its `--version` line, with a word on what else decides the bytes it writes, and its LLVM's version.
    fn versions(&self) -> Result<(String, String)> {
        let text = shell::output(self.rustc().arg("-vV"))?;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let (Some(version), Some(release), Some(llvm)) =
            (text.lines().next(), field("release: "), field("LLVM version: "))
        else {
            bail!("`rustc -vV` names no release and LLVM version: {text}");
        };
        // LLVM copies lines of source into BTF where it finds the files; Debian's `core` was compiled there.
        let sources = Path::new("/usr/src").join(format!("rustc-{release}"));
        let seen = *self == Compiler::Distribution && sources.is_dir();
        Ok((format!("{version}{}", if seen { " beside its sources" } else { "" }), llvm.to_owned()))
    }
}

fn rustup_run(toolchain: &str, program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, program]).env_remove("RUSTC").env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    command
}

/// The BPF toolchain of this machine; `None` if it is not complete.
pub fn present() -> Option<Toolchain> {
    [Compiler::Distribution, Compiler::Rustup(RUSTUP_TOOLCHAIN)].into_iter().find_map(|compiler| {
        if !compiler.is_ready() {
            return None;
        }
        let (rustc, llvm) = compiler.versions().ok()?;
        let (linker, linker_version) = fitting_linker(major(&llvm).ok()?)?;
        Some(Toolchain { compiler, rustc, llvm, linker, linker_version })
    })
}

/// The BPF toolchain of this machine, installed first where it is missing.
pub fn ensure() -> Result<Toolchain> {
    if let Some(toolchain) = present() {
        return Ok(toolchain);
    }
    shell::step("setup of the BPF toolchain");
    if distribution_has_bpf() {
        by_distribution()?;
    } else {
        println!("   this distribution packages no Rust for BPF: taking rustup's road");
        by_rustup()?;
    }
    present().ok_or_else(|| anyhow!("the BPF toolchain is still not complete after installing it; see the lines above"))
}

/// Whether the packages are installed or can be installed.
fn distribution_has_bpf() -> bool {
    if Compiler::Distribution.is_ready() {
        return true;
    }
    if shell::find("apt-get").is_none() {
        return false;
    }
    let offered = || DISTRIBUTION_PACKAGES.iter().all(|package| apt::offers(package));
    // The package lists may be old or absent, as in container images.
    offered() || (apt::update("fetch the package lists").is_ok() && offered())
}

fn by_distribution() -> Result<()> {
    const WHY: &str = "install the BPF toolchain";
    if !Compiler::Distribution.is_ready() {
        apt::install(&DISTRIBUTION_PACKAGES, WHY)?;
    }
    let (_, llvm) = Compiler::Distribution.versions()?;
    let llvm = major(&llvm)?;
    if fitting_linker(llvm).is_some() {
        return Ok(());
    }
    if !BPF_LINKER_LLVM.contains(&llvm) {
        println!("   bpf-linker {BPF_LINKER} can't be built against LLVM {llvm}: taking rustup's road");
        return by_rustup();
    }
    let packages = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev"), "libzstd-dev".into(), "g++".into()];
    apt::install(&packages.each_ref().map(String::as_str), WHY)?;
    shell::run(
        install_tool(&["bpf-linker", "--version", BPF_LINKER, "--no-default-features", "--features"])
            .arg(format!("llvm-{llvm}"))
            .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}")),
    )
}

fn by_rustup() -> Result<()> {
    if shell::find("rustup").is_none() {
        bail!("building the BPF object needs rustup here: install it from https://rustup.rs and run this again");
    }
    let compiler = Compiler::Rustup(RUSTUP_TOOLCHAIN);
    if !compiler.is_ready() {
        let mut install = Command::new("rustup");
        install.args(["toolchain", "install", RUSTUP_TOOLCHAIN, "--profile", "minimal", "--component", "rust-src"]);
        shell::run(install.arg("--no-self-update"))?;
    }
    if fitting_linker(major(&compiler.versions()?.1)?).is_some() {
        return Ok(());
    }
    let ours = tools().join("bin/cargo-binstall");
    if shell::find("cargo-binstall").is_none() && !ours.is_file() {
        shell::run(&mut install_tool(&["cargo-binstall"]))?;
    }
    // Not by compiling: that would need LLVM's development files, which this way is meant to avoid.
    let mut install = Command::new(shell::find("cargo-binstall").unwrap_or(ours));
    install.args(["--no-confirm", "--disable-strategies", "compile,quick-install", "--root"]).arg(tools());
    shell::run(install.arg(format!("bpf-linker@{BPF_LINKER}"))).with_context(|| {
        format!(
            "bpf-linker's published binaries could not be had; put bpf-linker {BPF_LINKER} on PATH and run this again"
        )
    })
}

/// Our own tools, out of the user's way.
fn tools() -> PathBuf {
    workspace::target_dir().join("tools")
}

/// `cargo install` into [`tools`].
fn install_tool(args: &[&str]) -> Command {
    let mut install = shell::cargo();
    install.args(["install", "--locked", "--quiet", "--root"]).arg(tools()).args(args);
    install
}

/// A bpf-linker of our version that reads the bitcode of a rustc with this LLVM, and its description; our own before the
/// user's.
fn fitting_linker(rustc_llvm: u32) -> Option<(PathBuf, String)> {
    let ours = Some(tools().join("bin/bpf-linker")).filter(|file| file.is_file());
    ours.into_iter().chain(shell::find("bpf-linker")).find_map(|linker| {
        let version = shell::output(Command::new(&linker).arg("--version")).ok()?;
        let version = version.split_whitespace().nth(1).filter(|version| *version == BPF_LINKER)?;
        let llvm = linked_llvm(&linker).ok()?;
        let (number, name) = match &llvm {
            Some(library) => (major(library.trim_start_matches(|c: char| !c.is_ascii_digit())).ok()?, library.as_str()),
            None => (BPF_LINKER_BUNDLED_LLVM, "its own LLVM"),
        };
        (number >= rustc_llvm).then(|| (linker, format!("bpf-linker {version} with {name}")))
    })
}

/// The name of the LLVM library a program is linked with, `libLLVM.so.22.1`; nothing where it carries LLVM itself.
fn linked_llvm(program: &Path) -> Result<Option<String>> {
    use object::read::elf::{Dyn as _, ElfFile64, FileHeader as _};
    let bytes = shell::read(program)?;
    let file = ElfFile64::<object::Endianness>::parse(&*bytes).with_context(|| format!("{}", program.display()))?;
    let endian = file.endian();
    let sections = file.elf_header().sections(endian, &*bytes)?;
    let Some((dynamic, strings)) = sections.dynamic(endian, &*bytes)? else { return Ok(None) };
    let strings = sections.strings(endian, &*bytes, strings)?;
    for entry in dynamic {
        if entry.tag(endian) == object::elf::DT_NEEDED {
            let name = String::from_utf8_lossy(entry.string(endian, strings)?).into_owned();
            if name.starts_with("libLLVM") {
                return Ok(Some(name));
            }
        }
    }
    Ok(None)
}

/// The first number of a version.
fn major(version: &str) -> Result<u32> {
    let digits = version.split('.').next().unwrap_or(version);
    let digits = digits.split('-').next().unwrap_or(digits);
    digits.parse().with_context(|| format!("the version {version:?}"))
}

#[cfg(test)]
mod tests {
    use super::{linked_llvm, major};

    #[test]
    fn versions_start_with_their_major_number() {
        assert_eq!(major("22.1.8").unwrap(), 22);
        assert_eq!(major("22.1").unwrap(), 22);
        assert!(major("rust").is_err());
    }

    #[test]
    fn a_program_without_llvm_is_told_from_one_with_it() {
        assert_eq!(linked_llvm(&std::env::current_exe().unwrap()).unwrap(), None);
    }
}
