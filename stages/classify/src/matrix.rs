//! Dense matrices in double precision, row by row. Each sum has one order, whatever the number of threads.

use rayon::prelude::*;

/// Rows of a product that are made at once: each row of the factors is fetched once for all of them.
const ROWS: usize = 16;

/// Aᵀ B of matrices with `n` and `m` columns and as many rows.
pub(crate) fn gram(n: usize, a: &[f64], m: usize, b: &[f64]) -> Vec<f64> {
    let mut products = vec![0.0; n * m];
    products.par_chunks_mut(ROWS * m).enumerate().for_each(|(part, products)| {
        for (a, b) in a.chunks_exact(n).zip(b.chunks_exact(m)) {
            for (row, &x) in products.chunks_exact_mut(m).zip(&a[part * ROWS..]) {
                row.iter_mut().zip(b).for_each(|(sum, y)| *sum += x * y);
            }
        }
    });
    products
}

/// A B, of which A has `n` columns and B `m`.
pub(crate) fn product(n: usize, a: &[f64], m: usize, b: &[f64]) -> Vec<f64> {
    let mut products = vec![0.0; a.len() / n * m];
    products.par_chunks_mut(m).zip(a.par_chunks_exact(n)).for_each(|(sums, row)| {
        for (&x, b) in row.iter().zip(b.chunks_exact(m)) {
            sums.iter_mut().zip(b).for_each(|(sum, y)| *sum += x * y);
        }
    });
    products
}

/// The lower triangle L with L Lᵀ the matrix; nothing of one that is singular.
pub(crate) fn cholesky(n: usize, matrix: &[f64]) -> Option<Vec<f64>> {
    let mut root = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let known: f64 = (0..j).map(|l| root[i * n + l] * root[j * n + l]).sum();
            let rest = matrix[i * n + j] - known;
            if i != j {
                root[i * n + j] = rest / root[j * n + j];
            } else if rest > 0.0 && rest.is_finite() {
                root[i * n + i] = rest.sqrt();
            } else {
                return None;
            }
        }
    }
    Some(root)
}

/// L⁻¹ B of a lower triangle L of `n` rows, and B of `m` columns.
pub(crate) fn solve(n: usize, lower: &[f64], m: usize, mut b: Vec<f64>) -> Vec<f64> {
    for i in 0..n {
        let (known, rest) = b.split_at_mut(i * m);
        subtract(&mut rest[..m], known.chunks_exact(m).zip(&lower[i * n..]));
        rest[..m].iter_mut().for_each(|x| *x /= lower[i * n + i]);
    }
    b
}

/// L⁻ᵀ B of a lower triangle L of `n` rows, and B of `m` columns.
pub(crate) fn solve_transposed(n: usize, lower: &[f64], m: usize, mut b: Vec<f64>) -> Vec<f64> {
    for i in (0..n).rev() {
        let (rest, known) = b.split_at_mut((i + 1) * m);
        let row = &mut rest[i * m..];
        subtract(row, known.chunks_exact(m).zip(lower[(i + 1) * n..].iter().skip(i).step_by(n)));
        row.iter_mut().for_each(|x| *x /= lower[i * n + i]);
    }
    b
}

fn subtract<'a>(row: &mut [f64], others: impl Iterator<Item = (&'a [f64], &'a f64)>) {
    for (other, weight) in others {
        row.iter_mut().zip(other).for_each(|(x, y)| *x -= weight * y);
    }
}

/// Aᵀ of a matrix of `n` columns.
pub(crate) fn transposed(n: usize, a: &[f64]) -> Vec<f64> {
    (0..n).flat_map(|column| a.iter().skip(column).step_by(n)).copied().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_matrix_is_the_square_of_its_root() {
        assert_eq!(cholesky(2, &[4.0, 2.0, 2.0, 10.0]).unwrap(), [2.0, 0.0, 1.0, 3.0]);
        assert!(cholesky(2, &[1.0, 2.0, 2.0, 1.0]).is_none());
        assert!(cholesky(1, &[f64::NAN]).is_none());
    }

    #[test]
    fn products_are_those_by_hand() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 2.0, 1.0, 0.0, 3.0]);
        assert_eq!(transposed(3, &a), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(gram(3, &a, 3, &b), [5.0, 0.0, 14.0, 7.0, 0.0, 19.0, 9.0, 0.0, 24.0]);
        assert_eq!(product(3, &a, 2, &b), [5.0, 11.0, 14.0, 23.0]);
    }

    proptest! {
        /// Of any size, larger than what is made at once too.
        #[test]
        fn what_is_solved_gives_back_what_was_asked(
            n in 1..40_usize, m in 1..6_usize, values in prop::collection::vec(-1.0..1.0_f64, 41 * 40),
        ) {
            let a = &values[..n * (n + 1)];
            let mut matrix = gram(n, a, n, a);
            (0..n).for_each(|i| matrix[i * n + i] += 1.0);
            let (root, b) = (cholesky(n, &matrix).unwrap(), values[..n * m].to_vec());
            let x = solve_transposed(n, &root, m, solve(n, &root, m, b.clone()));
            let found = product(n, &matrix, m, &x);
            prop_assert!(found.iter().zip(&b).all(|(found, b)| (found - b).abs() < 1e-9));
        }
    }
}
