//! Plans as people write them.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    fields: Fields,
}

fn flags(line: &str) -> Fields {
    Line::try_parse_from(["bench"].into_iter().chain(line.split_whitespace())).unwrap().fields
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn sizes_and_spans_have_units_or_none() {
    assert_eq!("1GiB".parse(), Ok(Size(1 << 30)));
    assert_eq!("4096".parse(), Ok(Size(4096)));
    assert_eq!("500ms".parse(), Ok(Span(Duration::from_millis(500))));
    assert_eq!("1.5m".parse(), Ok(Span(Duration::from_secs(90))));
    for bad in ["", "1GB", "-1", "99999999999GiB"] {
        assert!(bad.parse::<Size>().is_err(), "{bad}");
    }
    for bad in ["", "s", "-1s", "1e99s", "NaN", "9999999h"] {
        assert!(bad.parse::<Span>().is_err(), "{bad}");
    }
    assert_eq!("push=1,head=2".parse(), Ok(Shares { push: 1, pull: 0, head: 2 }));
    for bad in ["", "push", "push=x", "push=0", "mount=1", "push=99999999999"] {
        assert!(bad.parse::<Shares>().is_err(), "{bad}");
    }
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let file = file(
        "target = 'http://from-file'\nsize = '8KiB'\nwarm-up = 3\nconcurrency = 7\n\
         scenario = 'ci-day'\nshares = 'push=1,pull=1'\naccept-401 = true\n",
    );
    let fields = flags("--target http://from-flag --concurrency 9 --seed 5");
    let plan = fields.over(file.path()).unwrap().into_plan().unwrap();
    assert_eq!(plan.target, "http://from-flag");
    assert_eq!((plan.concurrency, plan.seed, plan.layers), (9, 5, 4));
    assert_eq!(plan.blob_bytes(), 8 << 10);
    assert_eq!(plan.warm_up, Duration::from_secs(3));
    assert_eq!(plan.scenario, Scenario::CiDay);
    assert_eq!(plan.shares, Shares { push: 1, pull: 1, head: 0 });
    assert!(plan.accept_401 && !plan.repeat_blobs && plan.set_up);
}

#[test]
fn a_field_that_no_plan_has_is_refused_by_its_name() {
    let file = file("target = 'http://x'\nconcurency = 7\n");
    let refused = flags("").over(file.path()).err().unwrap();
    assert!(format!("{refused:#}").contains("concurency"), "{refused:#}");
}

#[test]
fn what_cannot_be_run_is_refused_with_the_fields_name() {
    for (line, name) in [
        ("--concurrency 4", "target"),
        ("--target http://x --concurrency 0", "concurrency"),
        ("--target http://x --size 1", "size"),
        ("--target http://x --rate 0", "rate"),
        ("--target http://x --requests 1 --bytes 1", "bytes"),
        ("--target http://x --user u", "password-file"),
        ("--target http://x --scenario idle --requests 4", "idle"),
        ("--target http://x --pin a", "pin"),
    ] {
        let refused = flags(line).into_plan().err().expect(line);
        assert!(refused.to_string().contains(name), "{line}: {refused}");
    }
}

#[test]
fn every_example_is_a_plan() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans");
    let mut examples = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let fields = flags("--target http://127.0.0.1:1").over(&path).unwrap();
        fields.into_plan().unwrap_or_else(|cause| panic!("{}: {cause}", path.display()));
        assert!(fs::read_to_string(&path).unwrap().starts_with("# "), "{}", path.display());
        examples += 1;
    }
    assert!(examples >= 3);
}
