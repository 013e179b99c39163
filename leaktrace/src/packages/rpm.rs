//! Packages of Fedora, its relatives, and SUSE.

use super::tool::Tools;
use super::{Advice, Wanting};

/// An answer for each file.
pub(super) fn advise(files: &[Wanting], tools: &Tools) -> Vec<Advice> {
    let of = |file: &Wanting| {
        let arguments = ["-qf".as_ref(), "--qf".as_ref(), "%{NAME}\\n".as_ref(), file.path.as_os_str()];
        tools.output("rpm", &arguments).and_then(|output| package(&output))
    };
    let is_zypper = Tools::has("zypper") && !Tools::has("dnf");
    files
        .iter()
        .map(|file| of(file).map_or(Advice::Nothing, |name| Advice::Install(command(&name, is_zypper))))
        .collect()
}

/// The first package that rpm names: it answers with a sentence where there is none.
fn package(output: &str) -> Option<String> {
    let name = output.lines().next()?.trim();
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|it| it.is_ascii_alphanumeric() || "+._-".contains(it));
    is_name(name).then(|| name.to_owned())
}

fn command(package: &str, is_zypper: bool) -> String {
    if is_zypper { format!("zypper install {package}-debuginfo") } else { format!("dnf debuginfo-install {package}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_told_from_a_sentence() {
        assert_eq!(package("glibc\n").as_deref(), Some("glibc"));
        assert_eq!(package("libstdc++\nlibstdc++\n").as_deref(), Some("libstdc++"));
        for none in
            ["file /tmp/x is not owned by any package\n", "error: file /x: No such file or directory\n", "", "\n"]
        {
            assert_eq!(package(none), None, "{none}");
        }
    }

    #[test]
    fn each_distribution_has_its_own_command() {
        assert_eq!(command("glib2", false), "dnf debuginfo-install glib2");
        assert_eq!(command("glib2", true), "zypper install glib2-debuginfo");
    }
}
