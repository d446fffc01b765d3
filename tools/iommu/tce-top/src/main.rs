// SPDX-License-Identifier: GPL-2.0

//! The command line.

use std::{
    error::Error,
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};
use tce_top::{explain::explain, rates, state::State, table};

const USAGE: &str = "\
usage: tce-top [OPTION...]              state of all PEs: a table, or JSON when piped
       tce-top [OPTION...] explain BDF  why a device is not taken over, or VFIO refuses it
       tce-top [OPTION...] record FILE  writes the state for a replay
       tce-top [OPTION...] replay FILE  shows what was recorded
options:
  -d SECONDS   time between two looks (1)
  -n COUNT     how many looks (for ever on a terminal, else 2)
  --json       JSON even on a terminal
  --root DIR   where /sys and /proc are (/)";

#[derive(Debug)]
struct Options {
    delay: Duration,
    count: Option<u64>,
    json: bool,
    root: PathBuf,
    words: Vec<OsString>,
}

fn options() -> Result<Options, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = Options {
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
            Short('h') | Long("help") => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            Value(word) => options.words.push(word),
            _ => return Err(arg.unexpected()),
        }
    }
    Ok(options)
}

fn main() {
    let result = options()
        .map_err(Into::into)
        .and_then(|options| run(&options));
    if let Err(problem) = result {
        // Whoever reads us may have seen enough.
        let closed = problem
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
        if !closed {
            eprintln!("tce-top: {problem}");
            std::process::exit(2);
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = options
        .words
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    let words: Vec<&str> = words.iter().map(|word| &**word).collect();
    match words[..] {
        [] => show(options, Pace::Live, live(options)),
        ["explain", bdf] => {
            let state = State::read(&options.root)?;
            let mut out = io::stdout().lock();
            explain(&state, bdf)
                .iter()
                .try_for_each(|line| writeln!(out, "{line}"))?;
            Ok(())
        }
        ["record", file] => record(options, Path::new(file)),
        ["replay", file] => {
            let lines =
                BufReader::new(File::open(file).map_err(|e| format!("{file}: {e}"))?).lines();
            // People may have written something about it at the top.
            let looks = lines.filter(|line| !line.as_ref().is_ok_and(|line| line.starts_with('#')));
            show(
                options,
                Pace::Recorded,
                looks.map(|line| Ok(serde_json::from_str(&line?)?)),
            )
        }
        _ => Err(USAGE.into()),
    }
}

/// One look after the other.
fn live(options: &Options) -> impl Iterator<Item = Result<State, Box<dyn Error>>> + '_ {
    let many = io::stdout().is_terminal() && !options.json;
    let count = options.count.unwrap_or(if many { u64::MAX } else { 2 });
    (0..count).map(move |n| {
        if n > 0 {
            thread::sleep(options.delay);
        }
        Ok(State::read(&options.root)?)
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
        let rows = rates::rows(before.as_ref(), &now);
        if options.json || !is_terminal {
            serde_json::to_writer(&mut out, &rows)?;
            writeln!(out)?;
        } else {
            // To the corner, and away with what was there.
            write!(out, "\x1b[H\x1b[2J{}", table::screen(&now, &rows))?;
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
    for state in live(options) {
        serde_json::to_writer(&mut out, &state?)?;
        writeln!(out)?;
    }
    Ok(())
}
