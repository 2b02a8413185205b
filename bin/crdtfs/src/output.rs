//! What is printed: data on stdout, talk on stderr; colours on a terminal only.

use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, Write};

use serde::Serialize;

/// The two streams of a command.
#[derive(Debug)]
pub(crate) struct Output {
    stdout: BufWriter<io::Stdout>,
    colour: bool,
    bars: bool,
}

/// What a text is, by which it is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Heading,
    Good,
    Waiting,
    Bad,
    Faint,
}

impl Tone {
    /// The parameters of its "select graphic rendition" (ECMA-48, 8.3.117).
    fn rendition(self) -> &'static str {
        match self {
            Self::Heading => "1",
            Self::Good => "32",
            Self::Waiting => "33",
            Self::Bad => "31",
            Self::Faint => "2",
        }
    }
}

impl Output {
    pub(crate) fn new() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            stdout: BufWriter::new(io::stdout()),
            colour: io::stdout().is_terminal() && !plain,
            bars: io::stderr().is_terminal() && !plain,
        }
    }

    /// Whether bars may be drawn on stderr.
    pub(crate) fn bars(&self) -> bool {
        self.bars
    }

    /// A text in its colour, if stdout has colours.
    pub(crate) fn tone(&self, tone: Tone, text: &str) -> String {
        match self.colour {
            true => format!("\x1b[{}m{text}\x1b[0m", tone.rendition()),
            false => text.to_owned(),
        }
    }

    /// One line of data.
    pub(crate) fn line(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.stdout, "{line}")
    }

    /// A value for scripts, over several lines.
    pub(crate) fn json<T: Serialize>(&mut self, value: &T) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.stdout, value)?;
        self.line("")
    }

    /// One of many values for scripts, on one line.
    pub(crate) fn json_line<T: Serialize>(&mut self, value: &T) -> io::Result<()> {
        serde_json::to_writer(&mut self.stdout, value)?;
        self.line("")
    }

    /// Rows with their columns in line; `indent` spaces before each.
    pub(crate) fn table(&mut self, indent: usize, rows: &[Vec<Cell>]) -> io::Result<()> {
        for line in table(rows) {
            let line: String =
                line.iter().map(|(text, tone)| tone.map_or(text.clone(), |t| self.tone(t, text))).collect();
            self.line(&format!("{:indent$}{}", "", line.trim_end()))?;
        }
        Ok(())
    }

    /// Everything so far is out, or the error of who does not want it.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// Says something on stderr. Without a stderr there is nobody to tell.
pub(crate) fn say(text: &str) {
    drop(writeln!(io::stderr(), "{text}"));
}

/// A text in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Option<Tone>,
    right: bool,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: None, right: false }
    }

    pub(crate) fn toned(tone: Tone, text: impl Into<String>) -> Self {
        Self { tone: Some(tone), ..Self::new(text) }
    }

    /// For numbers.
    pub(crate) fn right(text: impl Into<String>) -> Self {
        Self { right: true, ..Self::new(text) }
    }
}

/// Each row's cells, padded to their columns' widths, two spaces between.
fn table(rows: &[Vec<Cell>]) -> Vec<Vec<(String, Option<Tone>)>> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let pad = |(column, cell): (usize, &Cell)| {
        let fill = " ".repeat(widths[column] - cell.text.chars().count());
        let last = column + 1 == columns;
        let text = match (cell.right, last) {
            (true, _) => format!("{fill}{}", cell.text),
            (false, true) => cell.text.clone(),
            (false, false) => format!("{}{fill}", cell.text),
        };
        (if last { text } else { text + "  " }, cell.tone)
    };
    rows.iter().map(|row| row.iter().enumerate().map(pad).collect()).collect()
}

/// A name or path for the terminal: names come from other devices, and control characters would be obeyed.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            // Writing to a string cannot fail.
            true => drop(write!(plain, "{}", c.escape_default())),
            false => plain.push(c),
        }
    }
    plain
}

/// A device's name among those of `all`, with the first digits of its id if others have the same.
pub(crate) fn name_among<'a>(name: &str, id: &str, all: impl Iterator<Item = &'a str>) -> String {
    match all.filter(|other| *other == name).count() {
        0 | 1 => plain(name),
        _ => format!("{} ({})", plain(name), short(id)),
    }
}

/// The first digits of an id, enough to tell it from others.
pub(crate) fn short(id: &str) -> &str {
    id.get(..10).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_by_characters() {
        let rows = vec![
            vec![Cell::new("ä"), Cell::right("5"), Cell::new("x")],
            vec![Cell::new("bcd"), Cell::right("10"), Cell::new("yy")],
        ];
        let text: Vec<String> =
            table(&rows).iter().map(|row| row.iter().map(|(text, _)| text.as_str()).collect()).collect();
        assert_eq!(text, ["ä     5  x", "bcd  10  yy"]);
    }

    #[test]
    fn control_characters_of_names_are_shown_not_obeyed() {
        assert_eq!(plain("a\x1b[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(plain("ä b"), "ä b");
    }
}
