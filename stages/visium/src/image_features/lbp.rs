//! Local binary patterns (Ojala et al. 2002), uniform, of 8 points at radius 1, as scikit-image's `local_binary_pattern`
//! has them: points between pixels are interpolated, outside of the patch lies black, and a pattern is uniform if going
//! through its points, from the first to the last, it changes at most twice.

/// As many as points are on: 0 to 8; and those that are not uniform.
pub(super) const PATTERNS: usize = 10;
const POINTS: usize = 8;

/// Half the diagonal of a pixel, to five digits, as scikit-image rounds it.
#[expect(clippy::approx_constant, reason = "with more digits, other points would be as light as the pixel")]
const DIAGONAL: f64 = 0.707_11;
/// Where the points lie: row and column, from the pixel.
const OFFSETS: [(f64, f64); POINTS] = [
    (0.0, 1.0),
    (-DIAGONAL, DIAGONAL),
    (-1.0, 0.0),
    (-DIAGONAL, -DIAGONAL),
    (0.0, -1.0),
    (DIAGONAL, -DIAGONAL),
    (1.0, 0.0),
    (DIAGONAL, DIAGONAL),
];

/// The share of each pattern in a square patch.
pub(super) fn shares(grey: &[u8], size: usize) -> [f64; PATTERNS] {
    let mut counts = [0_u32; PATTERNS];
    for row in 0..size {
        for column in 0..size {
            counts[pattern(grey, size, row, column)] += 1;
        }
    }
    counts.map(|count| f64::from(count) / grey.len().max(1) as f64)
}

fn pattern(grey: &[u8], size: usize, row: usize, column: usize) -> usize {
    let centre = f64::from(grey[row * size + column]);
    let at = |row: f64, column: f64| {
        let inside = |place: f64| (0.0..size as f64).contains(&place);
        if inside(row) && inside(column) {
            f64::from(grey[row as usize * size + column as usize])
        } else {
            0.0
        }
    };
    let is_on = OFFSETS.map(|(down, right)| {
        let (y, x) = (row as f64 + down, column as f64 + right);
        let (top, left) = (y.floor(), x.floor());
        let (dy, dx) = (y - top, x - left);
        // In this order, or equal values might differ by rounding in other places than scikit-image's.
        let above = (1.0 - dx) * at(top, left) + dx * at(top, x.ceil());
        let below = (1.0 - dx) * at(y.ceil(), left) + dx * at(y.ceil(), x.ceil());
        (1.0 - dy) * above + dy * below - centre >= 0.0
    });
    let changes = is_on.windows(2).filter(|pair| pair[0] != pair[1]).count();
    if changes <= 2 { is_on.iter().filter(|on| **on).count() } else { PATTERNS - 1 }
}
