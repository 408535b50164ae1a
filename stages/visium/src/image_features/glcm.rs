//! Properties of the grey-level co-occurrence matrix (Haralick et al. 1973), symmetric and normed, as scikit-image's
//! `graycomatrix` and `graycoprops` have them.

/// In the order of [`properties`].
pub(super) const PROPERTIES: [&str; 6] =
    ["contrast", "dissimilarity", "homogeneity", "energy", "correlation", "asm"];

/// The six properties at a distance, the mean of four directions (0°, 45°, 90°, 135°); `size` is above `distance`.
pub(super) fn properties(grey: &[u8], size: usize, distance: usize, levels: usize) -> [f64; 6] {
    // scikit-image rounds what the direction makes of the distance.
    let diagonal = (distance as f64 * std::f64::consts::FRAC_1_SQRT_2).round() as usize;
    let level: Vec<usize> = grey.iter().map(|&value| usize::from(value) * levels / 256).collect();
    let directions =
        [(0, distance, false), (diagonal, diagonal, false), (distance, 0, false), (diagonal, diagonal, true)];
    let mut mean = [0.0; 6];
    let mut matrix = vec![0_u32; levels * levels];
    for (down, right, mirrored) in directions {
        matrix.fill(0);
        for row in 0..size - down {
            for column in 0..size - right {
                // Down and to the left is up and to the right.
                let (first, second) =
                    if mirrored { (column + right, column) } else { (column, column + right) };
                let (a, b) = (level[row * size + first], level[(row + down) * size + second]);
                matrix[a * levels + b] += 1;
                matrix[b * levels + a] += 1;
            }
        }
        let found = of_matrix(&matrix, levels);
        mean.iter_mut().zip(found).for_each(|(mean, value)| *mean += value / 4.0);
    }
    mean
}

/// The properties of a symmetric matrix of counts.
fn of_matrix(matrix: &[u32], levels: usize) -> [f64; 6] {
    let count: f64 = matrix.iter().map(|&count| f64::from(count)).sum();
    let entries = || {
        let entry = |(place, &count): (usize, &u32)| (place / levels, place % levels, f64::from(count));
        matrix.iter().enumerate().filter(|(_, count)| **count > 0).map(entry)
    };
    let mean = entries().map(|(a, _, n)| a as f64 * n).sum::<f64>() / count;
    let (mut contrast, mut dissimilarity, mut homogeneity, mut asm) = (0.0, 0.0, 0.0, 0.0);
    let (mut variance, mut covariance) = (0.0, 0.0);
    for (a, b, n) in entries() {
        let (share, apart) = (n / count, a as f64 - b as f64);
        contrast += share * apart * apart;
        dissimilarity += share * apart.abs();
        homogeneity += share / (1.0 + apart * apart);
        asm += share * share;
        variance += share * (a as f64 - mean).powi(2);
        covariance += share * (a as f64 - mean) * (b as f64 - mean);
    }
    // A patch of one level goes with itself.
    let correlation = if variance < 1e-15 { 1.0 } else { covariance / variance };
    [contrast, dissimilarity, homogeneity, asm.sqrt(), correlation, asm]
}
