//! Build script: puts what runs in one place of the program file, so that the rest is never memory.
//!
//! A kernel maps a program 64 KiB at a time around whatever is touched. Functions stand in the file in the order in which the
//! compiler made them, so what a sidecar runs, much of it at the start only, lies scattered over 8 MB, and nearly all of that becomes
//! resident; so it is with constants. A linker script moves the functions of `hot.txt` and the constants of `tables.txt` to the front:
//! 3.5 MB less in every sidecar, and not one instruction more. Of functions that are split by the profile (`.cargo/config.toml`), this
//! is the part that ran; where the other ran nevertheless, it is listed as `NAME.cold`.
//!
//! `hot.txt` is what callgrind saw run, from start to stop, `tables.txt` what lackey saw read; `tests/bench/hot.sh` writes them anew.
//! Their lines are patterns over symbol names, first exact but for the parts that change with each compiler or dependency version, then
//! without those that edits change, so the lists age slowly: what they do not know stands where it always stood, a line that fits
//! nothing does nothing. The names are Rust's v0 mangling (`.cargo/config.toml` asks for it), which keeps types in the name: in the old
//! one, all of a generic's copies are called the same. Constants without a name have that of their crate's exports, as a hash.
//!
//! Only where the linker is known to be rustc's own lld, which takes such a script: elsewhere the program is laid out as ever.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What follows this line of `hot.txt` is not touched by the start and a first request.
const MORE: &str = "# Then what is rarer:\n";

/// What follows this line of `tables.txt` is next to never read.
const UNREAD: &str = "# Of these crates hardly anything:\n";

/// What `hot.txt` cannot know: valgrind's processor lacks some instructions, some work is done in steps of eight bytes, and an answer
/// comes in pieces or does not.
const ALSO: &[&str] = &[
    "_RN*4core3str5count*",
    "_RN*9cupbearer8upstream5http1*10Connection*.cold",
    "startup.do_library_init",
    "rand_thread_local_state*",
    "_RN*4sha2*x86_sha*",
    "_R*9aws_lc_rs2pq*",
    "_RN*8httparse4simd*",
    "_RN*8httparse4simd*.cold",
];

/// What runs by chance, and is small: it has a place of its own, of which hardly more than a page is touched.
const CHANCE: &[&str] = &[
    // Who is faster: a vendor, we, or the app.
    "_RN*9cupbearer8upstream*11poll_upload*",
    "_RNvM*5alloc7raw_vec*4wake5Waker*8grow_one*",
    "_RNvM*5alloc7raw_vec*14grow_amortized*",
    "_RI*4core3ptr13drop_in_place*5tokio4time5sleep5Sleep*",
    "_RI*4core3ptr13drop_in_place*3std2io5error5Error*",
    "_RI*4core3ptr13drop_in_place*3std2io5error5Error*.cold",
    "_RI*4core3ptr13drop_in_place*9cupbearer5proxy6accept*",
    "_RI*4core3ptr13drop_in_place*9cupbearer5proxy6accept6Client*.cold",
    "_R*5hyper5proto2h14conn*5close*",
    "_R*5hyper5proto2h18dispatch*6Client*",
    "_R*5hyper5proto2h18dispatch*15SenderDropGuard*",
    "_R*5tokio7runtime4task*9cupbearer8provider8exchange*9HttpFetch*",
    "_R*5tokio7runtime4task*9cupbearer8provider8exchange*9HttpFetch*.cold",
    "_R*5tokio7runtime4task*12BlockingTask*9cupbearer8provider8exchange*",
    "_R*5tokio7runtime4task*12BlockingTask*9cupbearer8provider8exchange*.cold",
    "_RN*5tokio7runtime7context5defer*",
    "_RN*5tokio4time5sleep5sleep",
    "_RN*5tokio4time*.cold",
    "_RN*9cupbearer8upstream5stall*",
    "_RN*9cupbearer8upstream4send*8Checkout4send*.cold",
    "_RN*9cupbearer5proxy5watch*",
    "_RN*9cupbearer5proxy5watch*.cold",
    "_RN*9cupbearer5proxy5http14wire*",
    "_RN*9cupbearer5proxy5http14wire*.cold",
    "_RN*9cupbearer8provider8schedule4life*.cold",
    "_RNvX*5alloc3vec10extract_if*",
    "_RNvY*4core4task4wake*",
    "_RI*4core3ptr13drop_in_place*10MutexGuard*",
    "_RI*4core3ptr13drop_in_place*10MutexGuard*.cold",
    "_RI*4core3ptr13drop_in_place*5hyper5proto2h14conn*",
    "_RI*4core3ptr13drop_in_place*5hyper5proto2h14conn*.cold",
    "_RI*4core3ptr13drop_in_place*5hyper6client8dispatch*.cold",
    "_RI*4core3ptr13drop_in_place*4want*.cold",
    "_RI*4core3ptr13drop_in_place*9cupbearer8provider8exchange*",
    "_RI*4core3ptr13drop_in_place*9cupbearer8provider8exchange*.cold",
    // How long names and numbers are, where work is done in steps of 8 or 16 bytes.
    "_RN*4core3fmt3num3imp*4__fmt",
    "_RN*4itoa*.cold",
    "_RN*4http6header3map*12remove_found*",
    "_RN*5bytes5bytes12static_clone*",
    "_RNvX*5bytes5bytes*4from",
    "_RNvX*5bytes5bytes*4from.cold",
    "_RN*9cupbearer6config6origin*9from_text.cold",
    "_RN*9cupbearer6config6routes*3add.cold",
    "_RNCI*9hashbrown3raw*4find*5toml*",
    "_RNCI*9hashbrown3raw*4find*13serde_spanned*",
    "_RNCI*8indexmap5inner5equal*",
    "_RN*8indexmap5inner*",
    "_RN*8indexmap5inner*.cold",
    "_RI*8indexmap3map*.cold",
    "_R*4toml3map*.cold",
    "_RN*10prometheus8registry*.cold",
    "_RI*9hashbrown3raw*14reserve_rehash*.cold",
    "_RN*16rustls_pki_types3pem*.cold",
    "_RN*6webpki11verify_cert*.cold",
    "_RN*6webpki4cert*.cold",
];

/// The data path is hot whatever happens, and so is what it stands on.
const LIKELY: &[&str] = &[
    "_RINvM*9hashbrown3raw*14reserve_rehash*",
    "_RNvM*5alloc7raw_vec*8grow_one*",
    "_RINv*4core5slice4sort*9cupbearer7dialect*",
    "_RNvX*5alloc3vec*9cupbearer7dialect*5Clone5clone*",
    "_RINvY*9cupbearer6config4read*",
    "_RINvX*10serde_core2de*9cupbearer6config*",
    "_R*5tokio7runtime*",
    "_R*9cupbearer5http1*",
    "_R*9cupbearer8upstream5http1*",
    "_RN*5tokio3net3tcp6stream*",
    "_R*5hyper5proto2h14conn*",
    "_R*5hyper5proto2h12io*",
    "_R*4http6header3map*",
    "_RN*6webpki*",
    "_RN*9cupbearer5proxy*",
    "_RN*9cupbearer8upstream*",
    "_RN*9cupbearer5http2*",
    "_RINv*13drop_in_place*9cupbearer8upstream*",
];

/// Assembly of aws-lc: one section for each file. What a TLS client may run on some processor.
const ASSEMBLY: &[&str] = &[
    "rdrand-x86_64",
    "aesni-x86_64",
    "aesni-gcm-x86_64",
    "ghash-x86_64",
    "sha256-x86_64",
    "sha512-x86_64",
    "x86_64-mont",
    "p256-x86_64-asm",
    "p256_beeu-x86_64-asm",
    "bignum_*p256*",
    "curve25519_x25519",
    "curve25519_x25519base",
    "sha3_keccak*",
    "mlkem_*",
];

/// Assembly that hardly any client runs: its other forms, which processors without some instructions take.
const OTHER_ASSEMBLY: &[&str] = &["curve25519_x25519*", "x86_64-mont5", "p256_montjscalarmul*"];

/// 700 KiB, of which one length of key and both ends are run. It comes first of all: so its end shares a place with what every start runs.
const LARGEST_ASSEMBLY: &[&str] = &["aesni-gcm-avx512"];

/// What `tables.txt` cannot know: constants of aws-lc's assembly, which stand by file, strings that are merged and have no order (but for
/// the names of everything that a certificate may hold), and the tables of other processors than valgrind's.
const HOT_TABLES: &[&str] = &[
    "*-x86_64.o(.rodata)",
    "*-p256-x86_64-asm.o(.rodata)",
    "*(.rodata.cst*)",
    "*(EXCLUDE_FILE(*-obj.o) .rodata.str* .rodata.*.str1.*)",
    "*curve25519_x25519base.o(.rodata)",
    "*-aesni-gcm-avx512.o(.rodata)",
    "*.rcgu.o(.rodata)",
    "*(.rodata._R*8httparse* .rodata._R*6rustls* .rodata.*10serde_core2de*9cupbearer6config*)",
];

/// Tables that next to nobody reads: curves that few certificates use, the other variant of a table, error texts, dialects, the page.
const COLD_TABLES: &[&str] = &[
    "*(.rodata._R*9cupbearer*7builtin*4TEXT* .rodata._R*9cupbearer*4page*4TEXT*)",
    "*(.rodata.p521_g_pre_comp .rodata.p384_g_pre_comp .rodata.g_p224_pre_comp .rodata.fiat_p256_g_pre_comp)",
    "*(.rodata.k25519Precomp .rodata.bf_init .rodata.*kOpenSSLReason* .rodata.kObjectData)",
    "*edwards25519_scalarmul*.o(.rodata .rodata.*)",
    "*(.rodata._R*dec2flt* .rodata._R*5gimli*)",
    "*(.rodata._R*2h2* .rodata._R*4jiff* .rodata._R*9addr2line* .rodata._R*12clap_builder*)",
];

fn main() {
    println!("cargo::rerun-if-changed=src/link");
    println!("cargo::rerun-if-env-changed=RUSTC_WRAPPER");
    if !linker_is_ours() {
        return;
    }
    let wrapper = env::var("RUSTC_WRAPPER").unwrap_or_default();
    if !wrapper.ends_with("rustc-with-profile") {
        println!(
            "cargo::warning=compiled without .cargo/rustc-with-profile, since RUSTC_WRAPPER is {wrapper:?}: the program will be \
             slower and use more memory"
        );
    }
    let (Some(functions), Some(constants)) = (list("hot.txt"), list("tables.txt")) else {
        return;
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let path = out.join("hot.ld");
    match fs::write(&path, script(&functions, &constants)) {
        Ok(()) => {
            println!("cargo::rustc-link-arg-bins=-T{}", path.display());
            let map = out.join("cupbearer.map");
            println!("cargo::rustc-link-arg-bins=-Wl,-Map={}", map.display());
            if packs_relocations() {
                println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
            }
        }
        Err(error) => println!("cargo::warning={}: {error}", path.display()),
    }
    if let Some(folder) = static_unwinder() {
        println!("cargo::rustc-link-search=native={}", folder.display());
        println!("cargo::rustc-link-lib=static:-bundle=gcc_eh");
    }
}

fn list(name: &str) -> Option<String> {
    let path = Path::new("src/link").join(name);
    fs::read_to_string(&path)
        .inspect_err(|error| {
            println!(
                "cargo::warning={}: {error}: the program will use more memory",
                path.display()
            );
        })
        .ok()
}

/// A release build with what rustc links with by itself, which is lld on this target only, and with names as in the list.
fn linker_is_ours() -> bool {
    let set = |key: &str| env::var(key).unwrap_or_default();
    let flags = set("CARGO_ENCODED_RUSTFLAGS");
    set("PROFILE") == "release"
        && set("TARGET") == "x86_64-unknown-linux-gnu"
        && set("HOST") == set("TARGET")
        && set("RUSTC_LINKER").is_empty()
        && flags.contains("symbol-mangling-version=v0")
        && !["fuse-ld", "linker=", "linker-f", "link-self", "ld-path"]
            .iter()
            .any(|chosen| flags.contains(chosen))
}

/// 12,000 relocations are 288 KiB as a table that stays mapped, and 4 KiB packed. glibc reads that from 2.36 on, so on an older one
/// the table stays; a program that was built on a newer one says so at its start where it is too new.
fn packs_relocations() -> bool {
    let Ok(output) = Command::new("getconf").arg("GNU_LIBC_VERSION").output() else {
        return false;
    };
    let Ok(version) = str::from_utf8(&output.stdout) else {
        return false;
    };
    // "glibc 2.36"
    version
        .trim()
        .strip_prefix("glibc 2.")
        .and_then(|minor| minor.split('.').next()?.parse::<u32>().ok())
        .is_some_and(|minor| minor >= 36)
}

/// The folder of the unwinder as an archive. Named before rustc's own `-lgcc_s` it takes that one's place, and a shared library less
/// is 100 KiB less: one that hardly another process of a container has loaded.
fn static_unwinder() -> Option<PathBuf> {
    let output = Command::new("cc")
        .arg("-print-file-name=libgcc_eh.a")
        .output()
        .ok()?;
    let path = PathBuf::from(str::from_utf8(&output.stdout).ok()?.trim());
    // A compiler that has none prints the bare name.
    (path.is_absolute() && path.is_file()).then(|| path.parent().map(Path::to_owned))?
}

/// `INSERT` keeps everything else where lld puts it by itself, which is, for the rest of the text, behind this. (A section of
/// another name would hide the functions from valgrind.)
fn script(functions: &str, constants: &str) -> String {
    let (start, more) = functions.split_once(MORE).unwrap_or((functions, ""));
    let (read, unread) = constants.split_once(UNREAD).unwrap_or((constants, ""));
    // Where the process begins.
    let mut script = String::from(
        "SECTIONS {\n.init : { *(.init) }\n.fini : { *(.fini) }\n.plt : { *(.plt) }\n\
         .text : {\n*crt1.o(.text)\n*crtbegin*.o(.text)\n",
    );
    let names = |text: &str| -> String {
        lines(text)
            .map(|name| match name.strip_suffix(".cold") {
                Some(function) => format!("*(.text.split.{function})\n"),
                // Functions that are marked as cold do run: a map grows.
                None => format!("*(.text.{name} .text.unlikely.{name})\n"),
            })
            .collect()
    };
    let files = |files: &[&str]| -> String {
        files
            .iter()
            .map(|file| format!("*-{file}.o(.text)\n"))
            .collect()
    };
    let (rare, start): (Vec<_>, Vec<_>) = lines(start).partition(|name| name.ends_with(".cold"));
    script.push_str(&files(LARGEST_ASSEMBLY));
    script.push_str(&names(&start.join("\n")));
    script.push_str(&names(&ALSO.join("\n")));
    script.push_str(&files(ASSEMBLY));
    // The other parts of functions, of which the compiler took it that they do not run, and hardly any does.
    script.push_str(&names(&rare.join("\n")));
    script.push_str(&names(&CHANCE.join("\n")));
    script.push_str(&files(OTHER_ASSEMBLY));
    script.push_str(&names(&LIKELY.join("\n")));
    script.push_str(&names(more));
    script.push_str("}\n} INSERT AFTER .eh_frame;\nSECTIONS {\n.rodata.hot : {\n");
    script.push_str(&sections(read));
    script.push_str(&HOT_TABLES.join("\n"));
    // Right behind the headers, which every process reads as well.
    script.push_str("}\n} INSERT BEFORE .rodata;\nSECTIONS {\n.rodata.cold : {\n");
    script.push_str(&COLD_TABLES.join("\n"));
    script.push_str(&sections(unread));
    script.push_str("}\n} INSERT AFTER .rodata;\n");
    script
}

fn lines(list: &str) -> impl Iterator<Item = &str> {
    list.lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
}

fn sections(list: &str) -> String {
    lines(list).map(|name| format!("*(.{name})\n")).collect()
}
