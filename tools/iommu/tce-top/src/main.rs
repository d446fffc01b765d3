// SPDX-License-Identifier: GPL-2.0

//! The command line.

use serde::Serialize;
use std::{
    error::Error,
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    iter,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};
use tce_top::{
    explain::{explain, without_group},
    rates,
    state::State,
    table,
};
use terminal_size::{terminal_size_of, Height, Width};

const USAGE: &str = "\
usage: tce-top [OPTION...]                state of all PEs: a table, or JSON when piped
       tce-top [OPTION...] explain [BDF]  why a device is not taken over, or VFIO refuses it;
                                          without BDF, why any has no IOMMU group
       tce-top [OPTION...] record FILE    writes the state for a replay
       tce-top [OPTION...] replay FILE    shows what was recorded
options:
  -d SECONDS   time between two looks (1)
  -n COUNT     how many looks (for ever on a terminal, else 2)
  --json       JSON even on a terminal
  --root DIR   where /sys and /proc are (/)
status: 0, 1 if there is no such device, 2 if something else is wrong";

#[derive(Debug)]
struct Options {
    help: bool,
    delay: Duration,
    count: Option<u64>,
    json: bool,
    root: PathBuf,
    words: Vec<OsString>,
}

fn options() -> Result<Options, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = Options {
        help: false,
        delay: Duration::from_secs(1),
        count: None,
        json: false,
        root: "/".into(),
        words: Vec::new(),
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Short('d') => {
                let seconds: f64 = parser.value()?.parse()?;
                options.delay = Duration::try_from_secs_f64(seconds)
                    .map_err(|_| "-d wants a time in seconds")?;
            }
            Short('n') => options.count = Some(parser.value()?.parse()?),
            Long("json") => options.json = true,
            Long("root") => options.root = parser.value()?.into(),
            Short('h') | Long("help") => options.help = true,
            Value(word) => options.words.push(word),
            _ => return Err(arg.unexpected()),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let result = options()
        .map_err(Into::into)
        .and_then(|options| run(&options));
    result.unwrap_or_else(|problem| {
        // Whoever reads us may have seen enough.
        let closed = problem
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
        if closed {
            return ExitCode::SUCCESS;
        }
        say(&problem.to_string());
        ExitCode::from(2)
    })
}

/// A line for people that is no result. It may be that nobody listens.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "tce-top: {text}");
}

fn run(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    if options.help {
        print(&[USAGE.to_owned()])?;
        return Ok(ExitCode::SUCCESS);
    }
    let words: Vec<_> = options
        .words
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    let words: Vec<&str> = words.iter().map(|word| &**word).collect();
    match words[..] {
        [] => show(options, Pace::Live, live(options))?,
        ["explain"] => print(&without_group(&State::read(&options.root)?))?,
        ["explain", bdf] => {
            let state = State::read(&options.root)?;
            let Some(device) = state.device(bdf) else {
                say(&format!(
                    "{bdf}: no such PCI device; `ls /sys/bus/pci/devices` shows those there are"
                ));
                return Ok(ExitCode::FAILURE);
            };
            print(&explain(&state, device))?;
        }
        ["record", file] => record(options, Path::new(file))?,
        ["replay", file] => {
            let recording = File::open(file).map_err(|e| format!("{file}: {e}"))?;
            show(options, Pace::Recorded, recorded(recording))?;
        }
        _ => return Err(USAGE.into()),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(lines: &[String]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))
}

/// The looks of a recording.
fn recorded(file: File) -> impl Iterator<Item = Result<State, Box<dyn Error>>> {
    let mut lines = BufReader::new(file);
    iter::from_fn(move || loop {
        let mut line = Vec::new();
        match lines.read_until(b'\n', &mut line) {
            Ok(0) => return None,
            // People may have written something about it at the top.
            Ok(_) if line.starts_with(b"#") => continue,
            Ok(_) => (),
            Err(e) => return Some(Err(e.into())),
        }
        return match serde_json::from_slice(&line) {
            // Who recorded was ended meanwhile.
            Err(_) if !line.ends_with(b"\n") => None,
            look => Some(look.map_err(Into::into)),
        };
    })
}

/// A line of JSON, to be written at once.
fn json(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// How many looks are wanted; `None` is for ever.
fn count(options: &Options) -> Option<u64> {
    let many = io::stdout().is_terminal() && !options.json;
    options.count.or((!many).then_some(2))
}

/// One look after the other.
fn live(options: &Options) -> impl Iterator<Item = Result<State, Box<dyn Error>>> + '_ {
    (0..count(options).unwrap_or(u64::MAX)).map(move |n| {
        if n > 0 {
            thread::sleep(options.delay);
        }
        let state = State::read(&options.root)?;
        match state.trouble() {
            // That there is no PE would not be true.
            Some(why) if state.loaded => Err(why.into()),
            _ => Ok(state),
        }
    })
}

/// Who waits between two looks.
#[derive(Clone, Copy)]
enum Pace {
    /// Whoever looks.
    Live,
    /// Whoever shows a recording, on a terminal.
    Recorded,
}

/// Shows each state, with what happened since the one before.
fn show(
    options: &Options,
    pace: Pace,
    states: impl Iterator<Item = Result<State, Box<dyn Error>>>,
) -> Result<(), Box<dyn Error>> {
    let is_terminal = io::stdout().is_terminal();
    let mut out = io::stdout().lock();
    let mut before: Option<State> = None;
    for now in states {
        let now = now?;
        let look = rates::look(before.as_ref(), &now);
        if options.json || !is_terminal {
            out.write_all(&json(&look)?)?;
        } else {
            let size = terminal_size_of(&out)
                .map(|(Width(columns), Height(lines))| (columns.into(), lines.into()));
            // To the corner, and away with what was there.
            write!(out, "\x1b[H\x1b[2J{}", table::screen(&now, &look, size))?;
            if let (Some(before), Pace::Recorded) = (&before, pace) {
                let passed = Duration::try_from_secs_f64(now.uptime - before.uptime);
                thread::sleep(passed.unwrap_or_default());
            }
        }
        out.flush()?;
        before = Some(now);
    }
    Ok(())
}

fn record(options: &Options, file: &Path) -> Result<(), Box<dyn Error>> {
    let mut out = File::create(file).map_err(|e| format!("{}: {e}", file.display()))?;
    if count(options).is_none() {
        say(&format!("writing to {} until Ctrl-C", file.display()));
    }
    for state in live(options) {
        out.write_all(&json(&state?)?)?;
    }
    Ok(())
}
