//! Where a trace was made: what somebody needs to know who repeats it, or compares it with another.

use serde::{Deserialize, Serialize};

/// The machine of a trace, and how it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reproduction {
    /// The command line, the program first; empty where the snapshot does not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Its name, as `uname -n` says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Its kernel, as `uname -r` says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Of what versions the programs were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<Versions>,
    /// Names of the variables by which the traced programs, or the command, were told how to allocate, sorted; never their values.
    /// `None` where the snapshot does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Vec<String>>,
}

/// Versions of this program and of the traced ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// That of leaktrace.
    #[serde(default)]
    pub leaktrace: String,
    /// The traced programs that are known by their build ids, by path.
    #[serde(default)]
    pub programs: Vec<ProgramVersion>,
}

/// A traced program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProgramVersion {
    /// Its file.
    pub exe: String,
    /// What the linker named its content, in hexadecimal digits.
    pub build_id: String,
}

impl Reproduction {
    /// Whether both say the same of the machine and the command: reports of one trace do, which may have seen other programs.
    #[must_use]
    pub fn is_of_one_trace(&self, other: &Self) -> bool {
        (&self.host, &self.kernel, &self.command) == (&other.host, &other.kernel, &other.command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_an_earlier_version_is_read_and_written_as_it_was() {
        let earlier = r#"{"host":"a","kernel":"6.1"}"#;
        let read: Reproduction = serde_json::from_str(earlier).unwrap();
        assert_eq!((read.command.len(), &read.versions, &read.environment), (0, &None, &None));
        assert_eq!(serde_json::to_string(&read).unwrap(), earlier);
        let later = Reproduction { environment: Some(vec!["MALLOC_ARENA_MAX".to_owned()]), ..read.clone() };
        assert!(later.is_of_one_trace(&read));
        assert!(!later.is_of_one_trace(&Reproduction { host: Some("b".to_owned()), ..read }));
    }
}
