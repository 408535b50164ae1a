//! The C header is what the Rust types say, and a C compiler takes it. `RESTAGE_UPDATE=1` writes it anew.

#![expect(clippy::expect_used, reason = "a test tells what is wrong by panicking")]

use std::{path::Path, process::Command};

use cbindgen::{Builder, Config, EnumConfig, ExportConfig, Language, RenameRule, Style};
use restage_stage::abi;

/// What the Rust names are in C, where names have no modules.
const NAMES: [(&str, &str); 8] = [
    ("MAJOR", "RESTAGE_MAJOR"),
    ("MINOR", "RESTAGE_MINOR"),
    ("ENTRY", "RESTAGE_ENTRY"),
    ("Status", "RestageStatus"),
    ("Bytes", "RestageBytes"),
    ("Sink", "RestageSink"),
    ("Plugin", "RestagePlugin"),
    ("Host", "RestageHost"),
];

fn header() -> String {
    let top = "/* The C ABI between a restage plugin and the host that loads it: `src/abi.rs` of the crate `restage-stage`, from\n   \
               which this file is generated and which says who owns what, what may grow and which thread calls.\n\n   \
               A plugin is a shared library that exports `restage_plugin_entry_v1`; `tests/c/plugin.c` is one. */";
    let magic = format!(
        "/* First word of every RestagePlugin. */\n#define RESTAGE_MAGIC UINT64_C(0x{:016x})",
        abi::MAGIC
    );
    let config = Config {
        language: Language::C,
        cpp_compat: true,
        style: Style::Both,
        header: Some(top.into()),
        include_guard: Some("RESTAGE_STAGE_H".into()),
        after_includes: Some(magic),
        trailer: Some("/* The one symbol that a plugin exports. */\nconst RestagePlugin *restage_plugin_entry_v1(void);".into()),
        line_length: 110,
        export: ExportConfig {
            include: NAMES.map(|(name, _)| name.to_owned()).into(),
            exclude: vec!["MAGIC".into()],
            rename: NAMES.map(|(from, to)| (from.to_owned(), to.to_owned())).into(),
            ..ExportConfig::default()
        },
        enumeration: EnumConfig {
            prefix_with_name: true,
            rename_variants: RenameRule::ScreamingSnakeCase,
            ..EnumConfig::default()
        },
        ..Config::default()
    };
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/abi.rs");
    let bindings = Builder::new().with_config(config).with_src(source).generate().expect("bindings");
    let mut text = Vec::new();
    bindings.write(&mut text);
    String::from_utf8(text).expect("text")
}

#[test]
fn the_header_is_what_the_types_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/restage_stage.h");
    let text = header();
    if std::env::var_os("RESTAGE_UPDATE").is_some() {
        std::fs::write(&path, &text).expect("it is written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(kept, text, "RESTAGE_UPDATE=1 cargo test -p restage-stage --test header writes it anew");
}

/// Sizes and places of fields are the same in C, by a C compiler's own word.
#[test]
fn a_c_compiler_lays_the_types_out_alike() {
    let folder = tempfile::tempdir().expect("a folder");
    let check = format!(
        "#include <stddef.h>\n#include \"restage_stage.h\"\n\
         _Static_assert(sizeof(RestageBytes) == {}, \"Bytes\");\n\
         _Static_assert(sizeof(RestageSink) == {}, \"Sink\");\n\
         _Static_assert(sizeof(RestagePlugin) == {}, \"Plugin\");\n\
         _Static_assert(sizeof(RestageHost) == {}, \"Host\");\n\
         _Static_assert(offsetof(RestagePlugin, describe) == {}, \"describe\");\n\
         _Static_assert(offsetof(RestagePlugin, close) == {}, \"close\");\n\
         _Static_assert(offsetof(RestageHost, cancelled) == {}, \"cancelled\");\n\
         _Static_assert(RESTAGE_STATUS_UNSUPPORTED == {}, \"Status\");\n",
        size_of::<abi::Bytes>(),
        size_of::<abi::Sink>(),
        size_of::<abi::Plugin>(),
        size_of::<abi::Host>(),
        std::mem::offset_of!(abi::Plugin, describe),
        std::mem::offset_of!(abi::Plugin, close),
        std::mem::offset_of!(abi::Host, cancelled),
        abi::Status::Unsupported as u32,
    );
    let source = folder.path().join("check.c");
    std::fs::write(&source, check).expect("it is written");
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
    let compiled = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", "-I"])
        .args([include, source])
        .output()
        .expect("a C compiler");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
}
