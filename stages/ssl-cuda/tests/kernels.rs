//! The kernels compile with NVIDIA's own compiler, where it is: it needs no card.

#[test]
fn kernels_compile() {
    match restage_ssl_cuda::compile_kernels() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{error}"),
        Err(missing) => println!("skipped: {missing}"),
    }
}
