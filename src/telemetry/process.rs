//! Metrics of the process, under the names that dashboards expect of every process.

use std::{fmt, fs, path::Path};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// Ticks a second in `/proc/<pid>/stat`: `USER_HZ`, a part of Linux's stable interface.
const TICKS: f64 = 100.0;

/// Collects from `/proc` at each scrape. A value that cannot be read is absent.
#[derive(Debug)]
pub(super) struct Process;

/// The values of one scrape.
#[derive(Debug, Default, PartialEq)]
struct Values {
    cpu_seconds: Option<f64>,
    start_time_seconds: Option<f64>,
    resident_bytes: Option<f64>,
    virtual_bytes: Option<f64>,
    open_fds: Option<f64>,
    max_fds: Option<f64>,
}

impl Values {
    fn read(proc: &Path) -> Self {
        let own = proc.join("self");
        let file = |path: &Path| fs::read_to_string(path).ok();
        let stat = file(&own.join("stat"));
        let status = file(&own.join("status"));
        // Fields are counted from the end of the process's name, which may contain spaces and parentheses: the first
        // one after it is field 3 of proc(5).
        let field = |number: usize| -> Option<f64> {
            stat.as_ref()?.rsplit_once(')')?.1.split_ascii_whitespace().nth(number - 3)?.parse().ok()
        };
        let kilobytes = |key: &str| -> Option<f64> {
            let line = status.as_ref()?.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.split_ascii_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
        };
        let booted: Option<f64> = file(&proc.join("stat"))
            .and_then(|stat| stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok());
        Self {
            cpu_seconds: field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS),
            start_time_seconds: booted.zip(field(22)).map(|(booted, ticks)| booted + ticks / TICKS),
            resident_bytes: kilobytes("VmRSS:"),
            virtual_bytes: kilobytes("VmSize:"),
            // Without the directory that is being read.
            open_fds: fs::read_dir(own.join("fd")).ok().map(|entries| entries.count().saturating_sub(1) as f64),
            max_fds: file(&own.join("limits")).and_then(|limits| {
                let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
                line.split_ascii_whitespace().next()?.parse().ok()
            }),
        }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let values = Values::read(Path::new("/proc"));
        if let Some(seconds) = values.cpu_seconds {
            let counter = ConstCounter::new(seconds);
            let help = "User and system CPU time, in seconds";
            counter.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, counter.metric_type())?)?;
        }
        for (name, help, value) in [
            (
                "process_start_time_seconds",
                "Start time of the process, since the Unix epoch",
                values.start_time_seconds,
            ),
            ("process_resident_memory_bytes", "Resident memory", values.resident_bytes),
            ("process_virtual_memory_bytes", "Virtual memory", values.virtual_bytes),
            ("process_open_fds", "Open file descriptors", values.open_fds),
            ("process_max_fds", "Maximum number of open file descriptors", values.max_fds),
        ] {
            if let Some(value) = value {
                let gauge = ConstGauge::new(value);
                gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_proc() {
        let proc = tempfile::tempdir().unwrap();
        let own = proc.path().join("self");
        fs::create_dir_all(own.join("fd")).unwrap();
        for fd in ["0", "1", "2", "3"] {
            fs::write(own.join("fd").join(fd), "").unwrap();
        }
        let stat = "7 (a ) name) S 1 7 7 0 -1 4194560 500 0 0 0 150 50 0 0 20 0 4 0 2000 1000 250 184467 1 1 0 0 0";
        fs::write(own.join("stat"), stat).unwrap();
        fs::write(own.join("status"), "Name:\tx\nVmSize:\t    2048 kB\nVmRSS:\t    1024 kB\n").unwrap();
        fs::write(own.join("limits"), "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  4096  files\n")
            .unwrap();
        fs::write(proc.path().join("stat"), "cpu 1 2 3\nbtime 1700000000\n").unwrap();
        let expected = Values {
            cpu_seconds: Some(2.0),
            start_time_seconds: Some(1_700_000_020.0),
            resident_bytes: Some(1_048_576.0),
            virtual_bytes: Some(2_097_152.0),
            open_fds: Some(3.0),
            max_fds: Some(1024.0),
        };
        assert_eq!(Values::read(proc.path()), expected);
    }

    #[test]
    fn an_unreadable_value_is_absent() {
        assert_eq!(Values::read(Path::new("/nowhere")), Values::default());
    }
}
