use super::*;

const SIZES: PageSizes = [100, 10, 1];
const ARTIFACTS: &str = "GetArtifactsByContext";
const EXECUTIONS: &str = "GetExecutionsByContext";

#[test]
fn a_page_shrinks_in_steps_and_grows_back() {
    let mut size = PageSize::new(SIZES);
    assert_eq!(size.rows(), 100);
    assert!(size.shrink());
    assert_eq!(size.rows(), 10);
    assert!(size.shrink());
    assert_eq!(size.rows(), 1);
    assert!(!size.shrink(), "a single row is too large");
    for expected in [1, 10, 100] {
        assert_eq!(size.rows(), expected);
        (0..PAGES_UNTIL_LARGER).for_each(|_| size.fits());
    }
    assert_eq!(size.rows(), 100);
}

#[test]
fn a_page_is_asked_for_again_by_the_same_token() {
    let (namespace, known) = ("team".into(), KnownSizes::default());
    let mut pages = Pages::of(ARTIFACTS, &namespace, &known, SIZES);
    assert_eq!(pages.next().unwrap().token, None);
    pages.turn(Some("a".to_owned())).unwrap();
    assert!(pages.shrink());
    assert_eq!(pages.next(), Some(Page { rows: 10, token: Some("a".to_owned()) }));
    pages.turn(Some("b".to_owned())).unwrap();
    assert!(pages.turn(Some("a".to_owned())).is_err(), "endless");
}

#[test]
fn a_listing_ends_without_a_token() {
    for token in [None, Some(String::new())] {
        let (namespace, known) = ("team".into(), KnownSizes::default());
        let mut pages = Pages::of(ARTIFACTS, &namespace, &known, SIZES);
        pages.turn(token).unwrap();
        assert_eq!(pages.next(), None);
    }
}

#[test]
fn the_next_listing_of_a_namespace_begins_with_the_size_that_fits() {
    let known = KnownSizes::default();
    let rows = |namespace: &str, method: &'static str| {
        let namespace = namespace.into();
        Pages::of(method, &namespace, &known, SIZES).next().unwrap().rows
    };
    let team = "team".into();
    let mut pages = Pages::of(ARTIFACTS, &team, &known, SIZES);
    assert!(pages.shrink());
    assert_eq!(rows("team", ARTIFACTS), 10);
    assert!(pages.shrink() && !pages.shrink());
    assert_eq!(rows("team", ARTIFACTS), 1);
    assert_eq!(rows("team", EXECUTIONS), 100);
    assert_eq!(rows("another", ARTIFACTS), 100);
}
