//! Compiles leaktrace-ebpf so that the bytes do not depend on the place of the build.
//!
//! What could make them depend on the place, and how each is prevented:
//!
//! - Paths in debug information (BTF names source files): remapped to `/leaktrace`, `/registry` and `/rustc`. LLVM copies a
//!   source line into BTF where it finds the file; it finds none there.
//! - Cargo hashes the path of a path dependency outside its workspace into symbol names. So the build runs in a workspace
//!   of its own under `target/`, made of links to the two crates, where both are inside.
//! - DWARF: needed by bpf-linker to make BTF, then taken out ([`super::strip`]).

use super::{ARCHITECTURES, strip};
use crate::setup::bpf::{Compiler, TARGET, Toolchain};
use crate::{shell, workspace};
use anyhow::{Context as _, Result, anyhow};
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use toml_edit::{DocumentMut, Item, value};

/// Architecture to object.
pub type Objects = BTreeMap<&'static str, Vec<u8>>;

/// rustc's flags beside paths and architecture: BTF, which is made from debug information, and the instructions that every
/// kernel we support understands (v3 has 32-bit arithmetic and atomics that return the old value: Linux 5.12).
pub const FLAGS: [&str; 3] = ["-Clink-arg=--btf", "-Cdebuginfo=2", "-Ctarget-cpu=v3"];

/// Every architecture's object.
pub fn all(toolchain: &Toolchain) -> Result<Objects> {
    ARCHITECTURES.iter().map(|architecture| Ok((*architecture, shell::read(&one(toolchain, architecture)?)?))).collect()
}

/// Compiles for one architecture; returns the path of the stripped object under `target/`.
pub fn one(toolchain: &Toolchain, architecture: &str) -> Result<PathBuf> {
    let stage = workspace::target_dir().join("ebpf");
    let binary = stage_workspace(&stage)?;
    let mut cargo = toolchain.compiler.cargo();
    cargo
        .current_dir(&stage)
        .args(["build", "--quiet", "--release", "--locked", "--package", "leaktrace-ebpf", "--target", TARGET])
        .arg("--target-dir")
        .arg(stage.join("target"))
        // The BPF target is not a stable one, and neither is building `core`.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(toolchain, architecture, &stage)?.join("\x1f"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        // Cargo puts the libraries of the rustc that runs us here; they are not this rustc's.
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("RUSTFLAGS");
    if matches!(toolchain.compiler, Compiler::Rustup(_)) {
        cargo.arg("-Zbuild-std=core");
    }
    println!("   compiling leaktrace-ebpf for {architecture}");
    shell::run_unannounced(&mut cargo)?;
    let linked = shell::read(&stage.join("target").join(TARGET).join("release").join(binary))?;
    let object = stage.join(format!("leaktrace-{architecture}.bpf.o"));
    shell::write_if_changed(&object, &strip::without_dwarf(&linked)?)?;
    Ok(object)
}

fn flags(toolchain: &Toolchain, architecture: &str, stage: &Path) -> Result<Vec<String>> {
    let mut flags: Vec<_> = FLAGS.map(String::from).into();
    // aya-ebpf reads registers by it.
    flags.push(format!("--cfg=bpf_target_arch=\"{architecture}\""));
    let mut remap = |from: &Path, to: &str| flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    remap(stage, "/leaktrace");
    remap(&toolchain.compiler.sysroot()?.join("lib/rustlib/src/rust"), "/rustc");
    let registries = cargo_home()?.join("registry/src");
    // Absent before anything was ever downloaded: then cargo downloads now, and the name is not known before.
    let mut cargo = toolchain.compiler.cargo();
    cargo.current_dir(stage).args(["fetch", "--quiet", "--locked"]);
    shell::output(&mut cargo)?;
    for registry in std::fs::read_dir(&registries).with_context(|| format!("reading {}", registries.display()))? {
        remap(&registry?.path(), "/registry");
    }
    Ok(flags)
}

fn cargo_home() -> Result<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
        .ok_or_else(|| anyhow!("neither CARGO_HOME nor HOME is set"))
}

/// Lays out `stage` as a workspace of the two crates; returns the name of the binary.
fn stage_workspace(stage: &Path) -> Result<String> {
    let root = workspace::root();
    let mut manifest = parse(&root.join("leaktrace-ebpf/Cargo.toml"))?;
    let profiles = manifest.remove("profile");
    manifest.remove("workspace");
    let binary = manifest
        .get("bin")
        .and_then(|bins| bins.as_array_of_tables()?.get(0)?.get("name")?.as_str())
        .unwrap_or("leaktrace-ebpf")
        .to_owned();

    let mut top = parse(&root.join("Cargo.toml"))?;
    top.remove("profile");
    if let Some(profiles) = profiles {
        top.insert("profile", profiles);
    }
    let table = top.get_mut("workspace").and_then(Item::as_table_mut).context("Cargo.toml has no [workspace]")?;
    table.insert("members", value(toml_edit::Array::from_iter(["leaktrace-ebpf"])));
    // As a member it would bring what its tests and userspace need into the lock file.
    table.insert("exclude", value(toml_edit::Array::from_iter(["leaktrace-common"])));

    shell::write_if_changed(&stage.join("Cargo.toml"), top.to_string().as_bytes())?;
    shell::write_if_changed(&stage.join("leaktrace-ebpf/Cargo.toml"), manifest.to_string().as_bytes())?;
    shell::write_if_changed(&stage.join("Cargo.lock"), &shell::read(&root.join("leaktrace-ebpf/Cargo.lock"))?)?;
    link(&root.join("leaktrace-ebpf/src"), &stage.join("leaktrace-ebpf/src"))?;
    link(&root.join("leaktrace-common"), &stage.join("leaktrace-common"))?;
    Ok(binary)
}

fn parse(path: &Path) -> Result<DocumentMut> {
    let text = String::from_utf8(shell::read(path)?).with_context(|| format!("{}", path.display()))?;
    text.parse().with_context(|| format!("{}", path.display()))
}

/// Makes `at` a link to `to`, whatever it linked to before.
fn link(to: &Path, at: &Path) -> Result<()> {
    if std::fs::read_link(at).is_ok_and(|present| present == to) {
        return Ok(());
    }
    if at.is_symlink() {
        std::fs::remove_file(at).with_context(|| format!("removing {}", at.display()))?;
    }
    symlink(to, at).with_context(|| format!("linking {} to {}", at.display(), to.display()))
}
