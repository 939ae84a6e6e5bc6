//! The binary: everything is in the library.

/// The road not taken: mimalloc, which is slower here and holds 2.5 KiB more for an idle connection.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    atlas::cli::main()
}
