//! The triple `matrix.mtx`, `features.tsv` (or `genes.tsv`) and `barcodes.tsv`, each gzipped or not.

use std::{
    io::{BufRead, Read},
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use restage_stage::{Error, Result, artifact::Csr};

use super::counts::Features;
use crate::text;

/// Whether a folder holds a matrix.
pub(super) fn is_triple(folder: &Path) -> bool {
    find(folder, &["matrix.mtx"]).is_some()
}

/// The file of one of these names, plain or with `.gz`.
fn find(folder: &Path, names: &[&str]) -> Option<PathBuf> {
    let names = names.iter().flat_map(|name| [format!("{name}.gz"), (*name).to_owned()]);
    names.map(|name| folder.join(name)).find(|path| path.is_file())
}

/// Barcodes, features and counts of spots x features.
pub(super) fn read(folder: &Path) -> Result<(Vec<String>, Features, Csr)> {
    let file = |names: &[&str]| {
        find(folder, names).ok_or_else(|| {
            Error::invalid(format!("{} lacks {} beside its matrix.mtx", folder.display(), names.join(" or ")))
        })
    };
    let barcodes = text::read(&file(&["barcodes.tsv"])?)?;
    let barcodes = barcodes.lines().map(|line| first_field(line).to_owned()).collect();
    let path = file(&["features.tsv", "genes.tsv"])?;
    let features = features(&text::read(&path)?);
    let features = features.map_err(|problem| Error::invalid(format!("{}: {problem}", path.display())))?;
    let path = file(&["matrix.mtx"])?;
    let x = matrix(text::open(&path)?)
        .map_err(|problem| Error::invalid(format!("{}: {problem}", path.display())))?;
    Ok((barcodes, features, x))
}

fn first_field(line: &str) -> &str {
    field(line.split('\t').next().unwrap_or_default())
}

/// A field without what stands around it; R's writers quote.
fn field(field: &str) -> &str {
    let field = field.trim();
    field.strip_prefix('"').and_then(|field| field.strip_suffix('"')).unwrap_or(field)
}

/// Lines of id, name and kind, where the older format has no kind.
fn features(text: &str) -> Result<Features, String> {
    let mut features = Features::default();
    for (number, line) in (1..).zip(text.lines()) {
        let mut fields = line.split('\t').map(field);
        let (id, name, kind) = (fields.next(), fields.next(), fields.next());
        let (Some(id), Some(name)) = (id, name) else {
            return Err(format!("line {number} should hold an id and a name, divided by a tab"));
        };
        features.ids.push(id.into());
        features.names.push(name.into());
        features.kinds.extend(kind.map(str::to_owned));
    }
    Ok(features)
}

/// Text that is unpacked at a time, while what came before it is parsed.
const BATCH: usize = 4 << 20;
/// Text that a task parses.
const PIECE: usize = 1 << 16;

/// Features x barcodes in MatrixMarket's coordinate format, as spots x features.
fn matrix(mut file: impl BufRead + Send) -> Result<Csr, String> {
    let mut lines = Lines { buffer: Vec::new(), number: 0 };
    let banner = lines.next(&mut file)?.unwrap_or_default().to_ascii_lowercase();
    let words: Vec<&str> = banner.split_ascii_whitespace().collect();
    let ["%%matrixmarket", "matrix", "coordinate", kind, shape] = words[..] else {
        return Err("line 1 should be `%%MatrixMarket matrix coordinate integer general`".into());
    };
    let (is_pattern, is_general) = (kind == "pattern", shape == "general");
    let sizes = loop {
        match lines.next(&mut file)? {
            Some(line) if line.starts_with('%') => {}
            Some(line) => break line,
            None => return Err("ends before the line of its sizes".into()),
        }
    };
    let sizes: Vec<usize> =
        sizes.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().unwrap_or_default();
    let [n_features, n_barcodes, stored] = sizes[..] else {
        return Err(format!("line {} should hold three sizes", lines.number));
    };
    if !is_general && stored > 0 {
        return Err(format!("holds a `{shape}` matrix; counts are `general`"));
    }

    // A file may promise any number of entries: room is made for what could be there, and grows with what is.
    let shape = Shape { n_features, n_barcodes, is_pattern };
    let mut all = Entries::with_room(stored.min(1 << 24));
    let (mut text, mut number) = (Vec::new(), lines.number);
    loop {
        let (next, parsed) = rayon::join(|| batch(&mut file), || shape.parse(&text));
        for piece in parsed {
            let before = all.values.len();
            all.append(piece.entries);
            if all.values.len() > stored {
                let line = number + line_of_entry(&text[piece.at..], stored - before);
                return Err(format!("line {line} is one more than the {stored} counts it promises"));
            }
            number += piece.lines;
            if piece.is_cut {
                return Err(format!(
                    "line {number} should hold a feature of 1 to {n_features}, a barcode of 1 to {n_barcodes} and a count"
                ));
            }
        }
        text = next.map_err(|error| format!("cannot read on after line {number}: {error}"))?;
        if text.is_empty() {
            break;
        }
    }
    let Entries { spots, genes, values } = all;
    if spots.len() != stored {
        return Err(format!("is cut off: it promises {stored} counts and holds {}", spots.len()));
    }
    by_spot(n_barcodes, n_features, &spots, genes, values)
}

/// The next whole lines; none at the end.
fn batch(file: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(BATCH + 256);
    file.take(BATCH as u64).read_to_end(&mut text)?;
    file.read_until(b'\n', &mut text)?;
    Ok(text)
}

/// Which of the lines, counted from 1, holds an entry, counted from 0.
fn line_of_entry(text: &[u8], entry: usize) -> usize {
    let lines = (1..).zip(text.split(|byte| *byte == b'\n'));
    let mut full = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    full.nth(entry).map_or(0, |(line, _)| line)
}

/// Counts in the order of their lines.
struct Entries {
    spots: Vec<u32>,
    genes: Vec<i32>,
    values: Vec<f32>,
}

impl Entries {
    fn with_room(room: usize) -> Self {
        Self {
            spots: Vec::with_capacity(room),
            genes: Vec::with_capacity(room),
            values: Vec::with_capacity(room),
        }
    }

    fn append(&mut self, mut more: Self) {
        self.spots.append(&mut more.spots);
        self.genes.append(&mut more.genes);
        self.values.append(&mut more.values);
    }
}

/// What some lines hold.
struct Piece {
    /// Where in the text they begin.
    at: usize,
    entries: Entries,
    /// How many there are, or, where one is wrong, up to it.
    lines: usize,
    is_cut: bool,
}

/// What entries may be.
struct Shape {
    n_features: usize,
    n_barcodes: usize,
    is_pattern: bool,
}

impl Shape {
    /// The entries of whole lines; in pieces, side by side.
    fn parse(&self, text: &[u8]) -> Vec<Piece> {
        let mut starts = vec![0];
        while let Some(end) = starts.last().and_then(|start| {
            let end = start + PIECE;
            Some(end + 1 + text.get(end..)?.iter().position(|byte| *byte == b'\n')?)
        }) {
            starts.push(end);
        }
        starts.push(text.len());
        starts.par_windows(2).map(|ends| self.piece(ends[0], &text[ends[0]..ends[1]])).collect()
    }

    fn piece(&self, at: usize, text: &[u8]) -> Piece {
        // Shorter lines than `1 1 1` and its end are rare.
        let mut piece = Piece { at, entries: Entries::with_room(text.len() / 6), lines: 0, is_cut: false };
        let mut rest = text;
        while !rest.is_empty() {
            piece.lines += 1;
            let entry = match plain(rest) {
                Some(([feature, barcode, count], after)) if !self.is_pattern => {
                    rest = after;
                    self.inside(feature, barcode, count as f32)
                }
                _ => {
                    let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
                    let line = &rest[..end];
                    rest = &rest[end..];
                    if line.trim_ascii().is_empty() {
                        continue;
                    }
                    self.entry(line)
                }
            };
            let Some((spot, gene, value)) = entry else {
                piece.is_cut = true;
                return piece;
            };
            piece.entries.spots.push(spot);
            piece.entries.genes.push(gene);
            piece.entries.values.push(value);
        }
        piece
    }

    /// Feature, barcode and count of a line, as (barcode, feature, count) from 0.
    fn entry(&self, line: &[u8]) -> Option<(u32, i32, f32)> {
        let (feature, rest) = whole(line)?;
        let (barcode, rest) = whole(rest)?;
        let value = match whole(rest) {
            _ if self.is_pattern => 1.0,
            Some((count, rest)) if rest.trim_ascii_start().is_empty() => count as f32,
            // A real number, or a whole one with something behind it.
            _ => {
                let field = rest.trim_ascii_start().split(u8::is_ascii_whitespace).next()?;
                str::from_utf8(field).ok()?.parse().ok()?
            }
        };
        self.inside(feature, barcode, value)
    }

    fn inside(&self, feature: usize, barcode: usize, value: f32) -> Option<(u32, i32, f32)> {
        let inside = (1..=self.n_features).contains(&feature) && (1..=self.n_barcodes).contains(&barcode);
        inside.then_some((u32::try_from(barcode - 1).ok()?, i32::try_from(feature - 1).ok()?, value))
    }
}

/// Three whole numbers with a blank between them that a text begins with, and what is behind the end of their line: what
/// nearly all lines are, and fast. `None`: any other line, right or wrong.
fn plain(text: &[u8]) -> Option<([usize; 3], &[u8])> {
    let mut at = 0;
    let mut numbers = [0; 3];
    for (number, end) in numbers.iter_mut().zip([b' ', b' ', b'\n']) {
        let first = at;
        loop {
            let byte = *text.get(at)?;
            at += 1;
            let digit = byte.wrapping_sub(b'0');
            if digit < 10 {
                *number = *number * 10 + usize::from(digit);
            } else if byte == end {
                break;
            } else {
                return None;
            }
            if at - first > 15 {
                return None;
            }
        }
        if at - first < 2 {
            return None;
        }
    }
    Some((numbers, &text[at..]))
}

/// The whole number that a line begins with, and what is behind it. `None`: another word, or beyond 2^53.
fn whole(line: &[u8]) -> Option<(usize, &[u8])> {
    let line = line.trim_ascii_start();
    let digits = line.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let ends = line.get(digits).is_none_or(u8::is_ascii_whitespace);
    let fits = (1..=15).contains(&digits) && ends;
    let (number, rest) = line.split_at(digits);
    fits.then(|| (number.iter().fold(0, |value, byte| value * 10 + usize::from(byte - b'0')), rest))
}

/// Entries in any order as rows; most files have a spot's together already.
fn by_spot(
    n_spots: usize,
    n_genes: usize,
    spots: &[u32],
    genes: Vec<i32>,
    values: Vec<f32>,
) -> Result<Csr, String> {
    let mut indptr = vec![0_i64; n_spots + 1];
    for &spot in spots {
        indptr[spot as usize + 1] += 1;
    }
    for spot in 0..n_spots {
        indptr[spot + 1] += indptr[spot];
    }
    let (indices, data) = if spots.is_sorted() {
        (genes, values)
    } else {
        let mut next = indptr.clone();
        let (mut indices, mut data) = (vec![0; genes.len()], vec![0.0; values.len()]);
        for (entry, &spot) in spots.iter().enumerate() {
            let place = next[spot as usize] as usize;
            (indices[place], data[place]) = (genes[entry], values[entry]);
            next[spot as usize] += 1;
        }
        (indices, data)
    };
    // All else that could be wrong with them was looked at.
    Csr::from_parts(n_genes, indptr, indices, data)
        .map_err(|_| "has two counts of one feature in a spot".to_owned())
}

/// Lines that are not empty, in one buffer.
struct Lines {
    buffer: Vec<u8>,
    number: usize,
}

impl Lines {
    /// Goes to the next line; whether there is one.
    fn advance(&mut self, file: &mut impl BufRead) -> Result<bool, String> {
        loop {
            self.buffer.clear();
            let read = file.read_until(b'\n', &mut self.buffer);
            if read.map_err(|error| format!("cannot read on after line {}: {error}", self.number))? == 0 {
                return Ok(false);
            }
            self.number += 1;
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    fn next(&mut self, file: &mut impl BufRead) -> Result<Option<&str>, String> {
        if !self.advance(file)? {
            return Ok(None);
        }
        let number = self.number;
        let line = str::from_utf8(self.buffer.trim_ascii());
        line.map(Some).map_err(|_| format!("line {number} is not text"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BANNER: &str = "%%MatrixMarket matrix coordinate integer general\n%\n";

    fn parse(text: &str) -> Result<Csr, String> {
        matrix(text.as_bytes())
    }

    #[test]
    fn features_by_barcodes_become_spots_by_genes() {
        let x = parse(&format!("{BANNER}3 2 3\n3 1 7\n1 1 5\n2 2 9\n")).unwrap();
        assert_eq!((x.n_rows(), x.n_cols), (2, 3));
        assert_eq!((x.row(0), x.row(1)), ((&[0, 2][..], &[5.0, 7.0][..]), (&[1][..], &[9.0][..])));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let problem = |text: &str| parse(text).unwrap_err();
        assert!(problem("1 1 1\n").starts_with("line 1 should be `%%MatrixMarket"));
        assert!(problem(BANNER).contains("ends before"));
        assert!(
            problem(&format!("{BANNER}3 2 1\n4 1 7\n")).starts_with("line 4 should hold a feature of 1 to 3")
        );
        assert_eq!(
            problem(&format!("{BANNER}3 2 2\n1 1 7\n")),
            "is cut off: it promises 2 counts and holds 1"
        );
        assert_eq!(
            problem(&format!("{BANNER}3 2 2\n1 1 7\n1 1 7\n")),
            "has two counts of one feature in a spot"
        );
    }

    /// Numbers are read by hand where they are whole: the others still by Rust's own parser.
    #[test]
    fn numbers_of_every_notation_are_read() {
        let shape = Shape { n_features: 3, n_barcodes: 2, is_pattern: false };
        let value = |text: &str| shape.entry(format!(" 3\t2 {text}\r\n").as_bytes());
        for (text, wanted) in
            [("7", 7.0), ("1e3", 1000.0), ("2.5", 2.5), ("-1", -1.0), ("16777217", 16_777_217.0)]
        {
            assert_eq!(value(text), Some((1, 2, wanted)), "{text}");
        }
        assert_eq!(value("99999999999999999999"), Some((1, 2, 1e20)));
        assert_eq!((value("x"), value(""), value("7x")), (None, None, None));
        assert_eq!(shape.entry(b"-1 2 7"), None);
        assert_eq!(shape.entry(b"0 2 7"), None);
        let more = parse(&format!("{BANNER}3 2 1\n1 1 7\n2 1 7\n")).unwrap_err();
        assert_eq!(more, "line 5 is one more than the 1 counts it promises");
    }

    /// In one piece or in many, by the fast way or the other: the same entries, and the same line where one is wrong.
    #[test]
    fn lines_of_any_writing_are_read_in_pieces() {
        let many = 30_000;
        let line = |at: usize| match at % 5 {
            0 => format!("{} {} {at}\n", 1 + at % 7, 1 + at / 7),
            1 => format!(" {}\t{} {at}.0\r\n", 1 + at % 7, 1 + at / 7),
            2 => format!("\n  \n{} {} {at}\n", 1 + at % 7, 1 + at / 7),
            _ => format!("{} {} {at} \n", 1 + at % 7, 1 + at / 7),
        };
        let text =
            |lines: &[String], promised: usize| format!("{BANNER}7 {many} {promised}\n{}", lines.concat());
        let mut lines: Vec<String> = (0..many).map(line).collect();
        assert!(lines.concat().len() > 4 * PIECE);
        let x = parse(&text(&lines, many)).unwrap();
        let entries: Vec<(usize, f32)> = (0..many).flat_map(|row| x.entries(row)).collect();
        assert!((0..many).all(|at| entries[at] == (at % 7, at as f32)));

        // Every fifth line has two empty ones before it.
        let at = many - 3;
        assert_eq!(at % 5, 2);
        let more = parse(&text(&lines, at)).unwrap_err();
        let wanted = 4 + at + 2 * (at / 5) + 2;
        assert_eq!(more, format!("line {wanted} is one more than the {at} counts it promises"));
        lines[at] = "8 1 1\n".into();
        let wrong = parse(&text(&lines, many)).unwrap_err();
        assert!(wrong.starts_with(&format!("line {} should hold", wanted - 2)), "{wrong}");
    }

    #[test]
    fn an_empty_pattern_is_an_empty_matrix() {
        let x = parse("%%MatrixMarket matrix coordinate pattern symmetric\n10 10 0\n").unwrap();
        assert_eq!((x.n_rows(), x.n_cols, x.data.len()), (10, 10, 0));
    }

    #[test]
    fn features_have_a_kind_or_none() {
        let with = features("1\ta\tGene Expression\n2\tb\tCustom\n").unwrap();
        assert_eq!(
            (with.names, with.kinds),
            (vec!["a".into(), "b".into()], vec!["Gene Expression".into(), "Custom".into()])
        );
        assert!(features("1\ta\n").unwrap().kinds.is_empty());
        let quoted = features("\"1\"\t\"a\"\t\"Gene Expression\"\n").unwrap();
        assert_eq!((&quoted.names[0], &quoted.kinds[0]), (&"a".to_owned(), &"Gene Expression".to_owned()));
        assert!(features("1\n").unwrap_err().starts_with("line 1 should hold an id and a name"));
    }

    proptest! {
        #[test]
        fn the_order_of_entries_changes_nothing(
            entries in proptest::collection::btree_map((0..6_usize, 0..5_usize), 1..100_u32, 0..30),
            seed: u64,
        ) {
            let mut shuffled: Vec<_> = entries.iter().collect();
            let mut state = seed;
            shuffled.sort_by_cached_key(|_| { state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1); state >> 33 });
            let lines: String =
                shuffled.iter().map(|((gene, spot), count)| format!("{} {} {count}\n", gene + 1, spot + 1)).collect();
            let x = parse(&format!("{BANNER}6 5 {}\n{lines}", entries.len())).unwrap();
            prop_assert_eq!(x.data.len(), entries.len());
            for spot in 0..5 {
                for (gene, value) in x.entries(spot) {
                    prop_assert_eq!(value, entries[&(gene, spot)] as f32);
                }
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "(%%MatrixMarket matrix coordinate (integer|real) general\n)?[0-9 %a\\-\n]{0,80}") {
            let _ = parse(&text);
        }
    }
}
