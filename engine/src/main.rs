//! The `restage` binary.

fn main() -> std::process::ExitCode {
    restage::cli::main()
}
