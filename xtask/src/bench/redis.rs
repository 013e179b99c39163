//! A redis server of our own, asked by `redis-benchmark`.
//!
//! In: how many requests. Out: a [`Sample`] of them: the server's CPU time from the kernel's scheduler, time by the wall
//! clock from the client. The server listens on a free port of the loopback device, keeps nothing on disk and no more than
//! a bounded amount in memory.

use super::results::Sample;
use super::victim::Setting;
use crate::shell;
use anyhow::{Context as _, Result, ensure};
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};

/// Connections of the client.
const CLIENTS: &str = "20";
/// Keys, drawn at random.
const KEYS: &str = "100000";
/// Bytes of a value.
const VALUE: &str = "64";

/// A running server.
pub struct Redis {
    child: Child,
    pid: u32,
    port: u16,
    // The server logs to it, and would find it closed otherwise.
    _log: BufReader<ChildStdout>,
}

impl Redis {
    /// Starts it, under `launcher` if that is not empty.
    pub fn start(setting: &Setting, launcher: &[OsString]) -> Result<Self> {
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|it| it.local_addr()).context("a free port")?.port();
        let server = shell::find("redis-server").context("there is no redis-server here")?;
        let mut command = setting.command(launcher, &server);
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"]);
        command.args(["--daemonize", "no", "--maxmemory", "256mb", "--server_cpulist", &setting.cpu.to_string()]);
        command.arg("--dir").arg(&setting.scratch);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting redis-server")?;
        let mut log = BufReader::new(child.stdout.take().context("redis-server has no output")?);
        let mut line = String::new();
        while !line.contains("Ready to accept connections") {
            line.clear();
            ensure!(log.read_line(&mut line)? > 0, "redis-server ended before it was ready");
        }
        let mut server = Self { child, pid: 0, port, _log: log };
        // What was launched may be a script that runs it.
        let info = server.ask("INFO server").context("asking redis-server for its pid")?;
        server.pid = field(&info, "process_id").context("redis-server does not tell its pid")?;
        // Fill the keys, so that all rounds find them there.
        server.benchmark("set", 100_000)?;
        Ok(server)
    }

    /// The server's pid.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Has it serve so many requests of a kind that `redis-benchmark` knows.
    pub fn measure(&self, test: &str, requests: u32) -> Result<Sample> {
        let before = self.cpu_ns()?;
        let per_second = self.benchmark(test, requests)?;
        let cpu_ns = (self.cpu_ns()? - before) as f64 / f64::from(requests);
        Ok(Sample { cpu_ns, wall_ns: 1e9 / per_second, units: u64::from(requests) })
    }

    fn benchmark(&self, test: &str, requests: u32) -> Result<f64> {
        let mut command = Command::new("redis-benchmark");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-c", CLIENTS, "-r", KEYS, "-d", VALUE]);
        command.args(["-n", &requests.to_string(), "-t", test, "--csv"]);
        let out = shell::output(&mut command)?;
        requests_per_second(&out, test).with_context(|| format!("redis-benchmark has printed something else: {out}"))
    }

    /// CPU time of the thread that serves. First number of the file, ns (Documentation/scheduler/sched-stats.rst).
    fn cpu_ns(&self) -> Result<u64> {
        let text =
            std::fs::read_to_string(format!("/proc/{}/schedstat", self.pid)).context("redis-server's CPU time")?;
        text.split_whitespace().next().and_then(|word| word.parse().ok()).context("redis-server's CPU time")
    }

    /// One command, inline, and the bulk string that answers it (<https://redis.io/docs/reference/protocol-spec>).
    fn ask(&self, command: &str) -> Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        write!(stream, "{command}\r\n")?;
        let mut reader = BufReader::new(stream);
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let length =
            header.strip_prefix('$').and_then(|it| it.trim().parse().ok()).context("an answer of another kind")?;
        let mut answer = vec![0; length];
        reader.read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It answers by closing the connection.
        if self.ask("SHUTDOWN NOSAVE").is_err() && self.pid == 0 {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// A number of redis' INFO.
fn field(info: &str, name: &str) -> Option<u32> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

/// The rate that `redis-benchmark --csv` gives for a test: with a line of headings since 6.2, without before.
fn requests_per_second(csv: &str, test: &str) -> Option<f64> {
    csv.lines().find_map(|line| {
        let mut fields = line.split(',').map(|field| field.trim().trim_matches('"'));
        if fields.next()?.eq_ignore_ascii_case(test) { fields.next()?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::{field, requests_per_second};

    /// As redis 7.0.15 prints it.
    const NEW: &str = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                       \"p99_latency_ms\",\"max_latency_ms\"\n\
                       \"SET\",\"131578.95\",\"0.213\",\"0.080\",\"0.215\",\"0.263\",\"0.327\",\"0.871\"\n";

    #[test]
    fn rates_are_found_with_headings_and_without() {
        assert_eq!(requests_per_second(NEW, "set"), Some(131_578.95));
        assert_eq!(requests_per_second("\"GET\",\"9000.00\"\n", "get"), Some(9000.0));
    }

    #[test]
    fn another_tests_rate_is_not_taken() {
        assert_eq!(requests_per_second(NEW, "get"), None);
        assert_eq!(requests_per_second("Could not connect to Redis at 127.0.0.1:1: Connection refused", "set"), None);
    }

    #[test]
    fn info_is_read_by_field() {
        let info = "# Server\r\nredis_version:7.0.15\r\nprocess_id:4711\r\ntcp_port:1\r\n";
        assert_eq!(field(info, "process_id"), Some(4711));
        assert_eq!(field(info, "process"), None);
    }
}
