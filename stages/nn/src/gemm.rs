//! Matrix products on slices, in registers as wide as the processor has them: AVX-512, AVX2 with FMA, NEON or none,
//! chosen at run time.
//!
//! The right operand is packed into panels of a few registers' width. The left one is read where it lies, by rows or by
//! columns: a row is where it starts, and runs of neighbours that all rows have in common. So the windows of a
//! convolution are rows of its image, and nobody copies them.
//!
//! Every sum is over the inner axis in its order, in blocks of fixed length: the same bytes for any number of threads and
//! any split of rows. Processors with other registers may differ in the last bits.

use std::{ops::Range, sync::LazyLock};

use pulp::{
    Arch, Simd, WithSimd,
    bytemuck::{cast_slice, cast_slice_mut},
};
use rayon::prelude::*;

use crate::scratch::Scratch;

/// Rows of the result that one task computes.
const ROWS: usize = 96;
/// Rows of the result that are summed in registers at once.
const TILE: usize = 6;
/// Longest block of the inner axis: its panel stays in the nearest caches.
pub(crate) const DEPTH: usize = 288;
/// The same of a left operand that is read by columns, of which each is in another line of the cache.
pub(crate) const COLUMNS_DEPTH: usize = 128;
/// Values of panels that are read again and again: they stay in the second cache.
const GROUP: usize = 1 << 17;
/// Values of a right operand that are packed at once, at least as many as a block has.
const PACKED: usize = 1 << 18;
/// Side of a square of the right operand that is turned round at once.
const SQUARE: usize = 8;
/// Values from which a right operand is packed by several threads.
const LARGE: usize = 1 << 16;

static ARCH: LazyLock<Arch> = LazyLock::new(Arch::new);

/// A row-major matrix on a slice, or its transpose.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    /// From a row to the next, and from a column to the next; one of them is 1.
    steps: (usize, usize),
}

/// A row-major matrix on a slice; `.reversed_axes()` transposes it.
pub(crate) fn view(values: &[f32], rows: usize, columns: usize) -> View<'_> {
    assert_eq!(values.len(), rows * columns, "as many values as rows x columns");
    View { values, rows, columns, steps: (columns, 1) }
}

impl<'a> View<'a> {
    pub(crate) fn reversed_axes(self) -> Self {
        let Self { values, rows, columns, steps } = self;
        Self { values, rows: columns, columns: rows, steps: (steps.1, steps.0) }
    }

    pub(crate) fn nrows(&self) -> usize {
        self.rows
    }

    /// So many of its columns.
    pub(crate) fn columns(self, first: usize, columns: usize) -> Self {
        assert!(first + columns <= self.columns, "columns of a matrix");
        let values = self.values.get(first * self.steps.1..).unwrap_or_default();
        Self { values, columns, ..self }
    }

    /// So many of its rows.
    fn rows(self, first: usize, rows: usize) -> Self {
        let values = self.values.get(first * self.steps.0..).unwrap_or_default();
        Self { values, rows, ..self }
    }

    /// Longest block of the inner axis, as a left operand.
    fn depth(&self) -> usize {
        if self.steps.1 == 1 { DEPTH } else { COLUMNS_DEPTH }
    }

    /// As a right operand.
    fn panels(&self, depth: usize) -> Panels {
        let (row, column) = self.steps;
        Panels::new(self.values, self.columns, Inner::new([(0, self.rows)], depth), |k| k * row, column)
    }

    /// As a left operand, and where what it reads along starts: rows, or the inner axis.
    fn starts(&self) -> Vec<usize> {
        match self.steps {
            (step, 1) => (0..self.rows).map(|row| row * step).collect(),
            (_, step) => (0..self.columns).map(|column| column * step).collect(),
        }
    }
}

/// `c = a b + beta c` on the calling thread.
pub(crate) fn gemm(a: View<'_>, b: View<'_>, beta: f32, c: &mut [f32]) {
    let (panels, starts, targets) = (b.panels(a.depth()), a.starts(), targets(a.rows, b.columns));
    assert_eq!((a.columns, c.len()), (b.rows, a.rows * b.columns), "shapes of a product");
    block(a, &starts, 0, &panels, Start::scaled(beta), c, &targets);
}

/// `c = a b + beta c`, in parallel over blocks of rows.
pub(crate) fn par_gemm(a: View<'_>, b: View<'_>, beta: f32, c: &mut [f32]) {
    par(a, b, Start::scaled(beta), c);
}

/// `c = a b` and what `start` says, in parallel over blocks of rows. As much of the inner axis at a time as has panels that stay
/// in the second cache, where all rows find them.
pub(crate) fn par(a: View<'_>, b: View<'_>, mut start: Start<'_>, c: &mut [f32]) {
    assert_eq!((a.columns, c.len()), (b.rows, a.rows * b.columns), "shapes of a product");
    assert!(!matches!(start, Start::Row(row) if row.len() != b.columns), "a value for every column");
    if c.is_empty() {
        return;
    }
    let targets = targets(ROWS, b.columns);
    let parts = b.rows.div_ceil((PACKED / b.columns).max(a.depth())).max(1);
    for part in 0..parts {
        let [from, to] = [part, part + 1].map(|part| b.rows * part / parts);
        let (a, b) = (a.columns(from, to - from), b.rows(from, to - from));
        let (panels, starts) = (b.panels(a.depth()), a.starts());
        c.par_chunks_mut(ROWS * b.columns).enumerate().for_each(|(task, c)| {
            let targets = &targets[..c.len() / b.columns];
            block(a, &starts, task * ROWS, &panels, start, c, targets);
        });
        start = Start::Scaled(1.0);
    }
}

/// The rows of `a` from `first`, as many as there are targets.
fn block(
    a: View<'_>,
    starts: &[usize],
    first: usize,
    right: &Panels,
    start: Start<'_>,
    c: &mut [f32],
    targets: &[usize],
) {
    let left = match a.steps {
        (_, 1) => Left::Rows { values: a.values, starts: &starts[first..][..targets.len()] },
        _ => Left::Columns { values: a.values.get(first..).unwrap_or_default(), starts },
    };
    product(left, right, start, c, targets);
}

fn targets(rows: usize, columns: usize) -> Vec<usize> {
    (0..rows).map(|row| row * columns).collect()
}

/// Neighbours along the inner axis: where the first is, counted from a row's start, and how many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) offset: usize,
    pub(crate) length: usize,
}

/// The inner axis.
pub(crate) struct Inner {
    runs: Vec<Run>,
    /// Longest block.
    depth: usize,
}

impl Inner {
    /// Runs of (offset, length), the ones longer than `depth` cut evenly.
    pub(crate) fn new(runs: impl IntoIterator<Item = (usize, usize)>, depth: usize) -> Self {
        let cut = |(offset, length): (usize, usize)| {
            let parts = length.div_ceil(depth);
            (0..parts).map(move |part| {
                let [from, to] = [part, part + 1].map(|part| length * part / parts);
                Run { offset: offset + from, length: to - from }
            })
        };
        Self { runs: runs.into_iter().flat_map(cut).collect(), depth }
    }
}

/// A right operand, in the order in which products read it.
pub(crate) struct Panels {
    values: Scratch,
    columns: usize,
    /// The same, filled up with zeros to whole registers.
    padded: usize,
    /// First column and width of each.
    panels: Vec<(usize, usize)>,
    runs: Vec<Run>,
    blocks: Vec<Block>,
}

/// Some runs, one block of the inner axis.
struct Block {
    runs: Range<usize>,
    first: usize,
    length: usize,
}

impl Panels {
    /// Packs a matrix whose value at (k, column) is `values[row(k) + column * step]`, with k counted along `inner`.
    pub(crate) fn new(
        values: &[f32],
        columns: usize,
        inner: Inner,
        row: impl Fn(usize) -> usize + Sync,
        step: usize,
    ) -> Self {
        let Inner { runs, depth } = inner;
        let mut blocks = vec![Block { runs: 0..0, first: 0, length: 0 }];
        for (index, run) in runs.iter().enumerate() {
            match blocks.last_mut() {
                Some(block) if block.length + run.length <= depth => {
                    block.runs.end = index + 1;
                    block.length += run.length;
                }
                last => {
                    let first = last.map_or(0, |block| block.first + block.length);
                    blocks.push(Block { runs: index..index + 1, first, length: run.length });
                }
            }
        }
        let lanes = ARCH.dispatch(Lanes);
        let padded = columns.div_ceil(lanes) * lanes;
        let panels: Vec<(usize, usize)> = panels(padded, lanes).collect();
        let length: usize = runs.iter().map(|run| run.length).sum();
        let mut packed = Scratch::new(length * padded);

        let mut rest = &mut packed[..];
        let mut parts = Vec::new();
        for (block, (column, width)) in blocks.iter().flat_map(|block| panels.iter().map(move |p| (block, p)))
        {
            let (panel, others) = rest.split_at_mut(block.length * width);
            parts.push((block, *column, *width, panel));
            rest = others;
        }
        let pack = |(block, column, width, panel): (&Block, usize, usize, &mut [f32])| {
            let values = values.get(column * step..).unwrap_or_default();
            pack_panel(values, block.first, &row, step, width.min(columns - column), panel, width);
        };
        if length * padded < LARGE {
            parts.into_iter().for_each(pack);
        } else {
            parts.into_par_iter().for_each(pack);
        }
        Self { values: packed, columns, padded, panels, runs, blocks }
    }
}

/// Lines of `width` values, the first `used` of the matrix, the others 0.
fn pack_panel(
    values: &[f32],
    first: usize,
    row: &impl Fn(usize) -> usize,
    step: usize,
    used: usize,
    panel: &mut [f32],
    width: usize,
) {
    if used < width {
        panel.chunks_exact_mut(width).for_each(|line| line[used..].fill(0.0));
    }
    if step == 1 {
        for (k, line) in panel.chunks_exact_mut(width).enumerate() {
            line[..used].copy_from_slice(&values[row(first + k)..][..used]);
        }
        return;
    }
    // Square by square, turned round in registers where the values of a column lie together.
    let mut k = first;
    let mut squares = panel.chunks_exact_mut(SQUARE * width);
    for lines in &mut squares {
        let rows: [usize; SQUARE] = std::array::from_fn(|line| row(k + line));
        let together = rows.iter().enumerate().all(|(line, row)| *row == rows[0] + line);
        let mut column = 0;
        while column < used {
            if together && column + SQUARE <= used {
                let square: [&[f32]; SQUARE] =
                    std::array::from_fn(|beside| &values[(column + beside) * step + rows[0]..][..SQUARE]);
                for line in 0..SQUARE {
                    let turned: [f32; SQUARE] = std::array::from_fn(|beside| square[beside][line]);
                    lines[line * width + column..][..SQUARE].copy_from_slice(&turned);
                }
                column += SQUARE;
            } else {
                for (line, row) in rows.iter().enumerate() {
                    lines[line * width + column] = values[column * step + row];
                }
                column += 1;
            }
        }
        k += SQUARE;
    }
    for (index, line) in squares.into_remainder().chunks_exact_mut(width).enumerate() {
        let row = row(k + index);
        for (column, value) in line[..used].iter_mut().enumerate() {
            *value = values[column * step + row];
        }
    }
}

/// The first column and the width of each panel.
fn panels(padded: usize, lanes: usize) -> impl Iterator<Item = (usize, usize)> {
    let widest = ARCH.dispatch(Vectors) * lanes;
    let mut column = 0;
    std::iter::from_fn(move || {
        let rest = padded - column;
        let width = [widest, widest / 2, lanes].into_iter().find(|width| (1..=rest).contains(width))?;
        column += width;
        Some((column - width, width))
    })
}

/// Values in a register.
struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        S::F32_LANES
    }
}

/// Registers that the widest panel fills.
struct Vectors;

impl WithSimd for Vectors {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        if S::REGISTER_COUNT >= 32 { 4 } else { 2 }
    }
}

/// A left operand.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// The row r has its runs counted from `starts[r]`.
    Rows { values: &'a [f32], starts: &'a [usize] },
    /// The row r has its value at k in `values[starts[k] + r]`.
    Columns { values: &'a [f32], starts: &'a [usize] },
}

/// What a result is before the sums.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Nothing: what is there is overwritten.
    Zero,
    /// What is there, times this.
    Scaled(f32),
    /// The same row for all.
    Row(&'a [f32]),
}

impl Start<'_> {
    fn scaled(beta: f32) -> Self {
        if beta == 0.0 { Self::Zero } else { Self::Scaled(beta) }
    }
}

/// The product on the calling thread; its row r is written from `result[targets[r]]` on.
pub(crate) fn product(
    left: Left<'_>,
    right: &Panels,
    start: Start<'_>,
    result: &mut [f32],
    targets: &[usize],
) {
    ARCH.dispatch(Product { left, right, start, result, targets });
}

struct Product<'a> {
    left: Left<'a>,
    right: &'a Panels,
    start: Start<'a>,
    result: &'a mut [f32],
    targets: &'a [usize],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let right = self.right;
        let widest = right.panels.first().map_or(1, |(_, width)| *width);
        let (rows, tiled) = (self.targets.len(), self.targets.len() / TILE * TILE);
        for block in &right.blocks {
            let group = (GROUP / (block.length * widest).max(1)).max(1);
            for panels in right.panels.chunks(group) {
                for row in (0..tiled).step_by(TILE) {
                    self.tiles::<S, TILE>(simd, block, panels, row);
                }
                for row in tiled..rows {
                    self.tiles::<S, 1>(simd, block, panels, row);
                }
            }
            self.start = Start::Scaled(1.0);
        }
    }
}

impl Product<'_> {
    /// Along the panels, so that rows of the result are written from one end to the other.
    #[inline(always)]
    fn tiles<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        block: &Block,
        panels: &[(usize, usize)],
        row: usize,
    ) {
        for (column, width) in panels {
            let at = block.first * self.right.padded + block.length * column;
            let panel = cast_slice::<f32, S::f32s>(&self.right.values[at..][..block.length * width]);
            match width / S::F32_LANES {
                4 => self.tile::<S, R, 4>(simd, block, panel.as_chunks().0, row, *column),
                2 => self.tile::<S, R, 2>(simd, block, panel.as_chunks().0, row, *column),
                _ => self.tile::<S, R, 1>(simd, block, panel.as_chunks().0, row, *column),
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const V: usize>(
        &mut self,
        simd: S,
        block: &Block,
        panel: &[[S::f32s; V]],
        row: usize,
        column: usize,
    ) {
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        match self.left {
            Left::Rows { values, starts } => {
                let mut panel = panel;
                for run in &self.right.runs[block.runs.clone()] {
                    let (lines, rest) = panel.split_at(run.length);
                    panel = rest;
                    let from = |r| &values[starts[row + r] + run.offset..][..run.length];
                    add_rows(simd, std::array::from_fn(from), lines, &mut sums);
                }
            }
            Left::Columns { values, starts } => {
                add_columns(
                    simd,
                    values.get(row..).unwrap_or_default(),
                    &starts[block.first..][..block.length],
                    panel,
                    &mut sums,
                );
            }
        }
        let used = (V * S::F32_LANES).min(self.right.columns - column);
        for r in 0..R {
            let result = &mut self.result[self.targets[row + r] + column..][..used];
            if used == V * S::F32_LANES {
                let result = cast_slice_mut::<f32, S::f32s>(result);
                for v in 0..V {
                    let sum = sums[r][v];
                    result[v] = match self.start {
                        Start::Zero => sum,
                        Start::Scaled(beta) => simd.mul_add_e_f32s(simd.splat_f32s(beta), result[v], sum),
                        Start::Row(bias) => {
                            let bias = &bias[column + v * S::F32_LANES..][..S::F32_LANES];
                            simd.add_f32s(cast_slice::<f32, S::f32s>(bias)[0], sum)
                        }
                    };
                }
            } else {
                let sums = cast_slice::<S::f32s, f32>(&sums[r]);
                for (at, (result, sum)) in result.iter_mut().zip(sums).enumerate() {
                    *result = match self.start {
                        Start::Zero => *sum,
                        Start::Scaled(beta) => beta * *result + sum,
                        Start::Row(bias) => bias[column + at] + sum,
                    };
                }
            }
        }
    }
}

/// Adds the product of rows and the lines of a panel. The copy is what makes the compiler keep the sums in registers.
#[inline(always)]
fn add_rows<S: Simd, const R: usize, const V: usize>(
    simd: S,
    rows: [&[f32]; R],
    lines: &[[S::f32s; V]],
    sums: &mut [[S::f32s; V]; R],
) {
    let rows = rows.map(|row| &row[..lines.len()]);
    let mut registers = *sums;
    for (k, line) in lines.iter().enumerate() {
        for r in 0..R {
            let x = simd.splat_f32s(rows[r][k]);
            for v in 0..V {
                registers[r][v] = simd.mul_add_e_f32s(x, line[v], registers[r][v]);
            }
        }
    }
    *sums = registers;
}

/// The same of columns, of which R neighbours are read from each start on.
#[inline(always)]
fn add_columns<S: Simd, const R: usize, const V: usize>(
    simd: S,
    values: &[f32],
    starts: &[usize],
    lines: &[[S::f32s; V]],
    sums: &mut [[S::f32s; V]; R],
) {
    let mut registers = *sums;
    for (line, start) in lines.iter().zip(starts) {
        let column = &values[*start..][..R];
        for r in 0..R {
            let x = simd.splat_f32s(column[r]);
            for v in 0..V {
                registers[r][v] = simd.mul_add_e_f32s(x, line[v], registers[r][v]);
            }
        }
    }
    *sums = registers;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(count: usize, phase: f32) -> Vec<f32> {
        (0..count).map(|i| (phase + 1.3 * i as f32).sin()).collect()
    }

    fn at(view: &View<'_>, row: usize, column: usize) -> f64 {
        f64::from(view.values[row * view.steps.0 + column * view.steps.1])
    }

    /// Sizes around those of tiles, registers, panels, blocks and tasks, each operand both ways.
    #[test]
    fn products_are_those_of_the_definition() {
        let sizes = [
            (1, 1, 1),
            (6, 3, 16),
            (7, 289, 15),
            (50, 40, 64),
            (97, 600, 67),
            (13, 288, 130),
            (5, 0, 3),
            (100, 70, 1),
        ];
        for (rows, inner, columns) in sizes {
            let (a, b) = (wave(rows * inner, 0.2), wave(inner * columns, 0.9));
            let (c, bias) = (wave(rows * columns, 0.5), wave(columns, 0.1));
            for ways in 0..4 {
                let a =
                    if ways % 2 == 0 { view(&a, rows, inner) } else { view(&a, inner, rows).reversed_axes() };
                let b = if ways < 2 {
                    view(&b, inner, columns)
                } else {
                    view(&b, columns, inner).reversed_axes()
                };
                for (name, found, start) in [
                    ("zero", with(&c, |c| par_gemm(a, b, 0.0, c)), vec![0.0; rows * columns]),
                    ("half", with(&c, |c| par_gemm(a, b, 0.5, c)), c.iter().map(|c| 0.5 * c).collect()),
                    ("one thread", with(&c, |c| gemm(a, b, 1.0, c)), c.clone()),
                    ("bias", with(&c, |c| par(a, b, Start::Row(&bias), c)), bias.repeat(rows)),
                ] {
                    for (place, (found, start)) in found.iter().zip(start).enumerate() {
                        let (row, column) = (place / columns, place % columns);
                        let terms = (0..inner).map(|k| at(&a, row, k) * at(&b, k, column));
                        let (sum, size) = terms.fold((0.0, 1.0), |(sum, size), t| (sum + t, size + t.abs()));
                        let error = (f64::from(*found) - f64::from(start) - sum).abs();
                        assert!(
                            error < 1e-6 * size,
                            "{name} {rows}x{inner}x{columns} way {ways}, {place}: off by {error}"
                        );
                    }
                }
            }
        }
    }

    fn with(start: &[f32], product: impl Fn(&mut [f32])) -> Vec<f32> {
        let mut result = start.to_vec();
        product(&mut result);
        result
    }

    #[test]
    fn the_split_of_rows_and_threads_changes_no_bytes() {
        let (a, b) = (wave(200 * 700, 0.2), wave(700 * 90, 0.9));
        let (a, b) = (view(&a, 200, 700), view(&b, 700, 90));
        let whole = with(&[0.0; 200 * 90], |c| gemm(a, b, 0.0, c));
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(whole, with(&[0.0; 200 * 90], |c| pool.install(|| par_gemm(a, b, 0.0, c))));
        }
    }

    /// Rows that are windows, 2 x 3 of an image of 5 columns, and overlap.
    #[test]
    fn rows_can_be_runs_that_overlap() {
        let image = wave(5 * 4, 0.4);
        let weights = wave(6 * 2, 0.7);
        let starts = [0, 1, 2, 5, 6, 7, 10];
        let inner = Inner::new([(0, 3), (5, 3)], DEPTH);
        let panels = Panels::new(&weights, 2, inner, |k| k * 2, 1);
        let mut found = [0.0; 14];
        let left = Left::Rows { values: &image, starts: &starts };
        product(left, &panels, Start::Zero, &mut found, &[12, 10, 8, 6, 4, 2, 0]);
        for (row, start) in starts.into_iter().enumerate() {
            for column in 0..2 {
                let term = |k: usize| image[start + k / 3 * 5 + k % 3] * weights[k * 2 + column];
                let sum: f32 = (0..6).map(term).sum();
                assert!((found[12 - 2 * row + column] - sum).abs() < 1e-5);
            }
        }
    }
}
