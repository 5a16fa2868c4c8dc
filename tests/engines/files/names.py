"""Names as file systems take them, for tests with hypothesis."""

from hypothesis import strategies as st

names = st.one_of(
    st.binary(min_size=1, max_size=255),
    st.text(min_size=1, max_size=60).map(lambda t: t.encode("utf-8", "surrogatepass")),
    st.sampled_from(
        [b"...", b"-", b"%", b"%0A", b"a\tb", b"\n", b" ", b"~", b"x" * 100, b"y" * 101]
    ),
).filter(lambda n: n not in (b".", b"..") and b"/" not in n and b"\0" not in n and len(n) <= 255)
