"""The page template: escaping, empty sections, and the frame around them."""

from gptjax.report import style, template


def test_a_page_escapes_and_leaves_empty_sections_away():
    page = template.page(
        "a < b",
        kicker="k & k",
        facts=["<i>"],
        colours=style.palette(2),
        sections=[template.Section("Empty", ""), template.Section("Not so", "<p>x</p>")],
        footer="<code>f</code>",
    )
    assert page.startswith('<!doctype html>\n<html lang="en">') and page.endswith("</html>\n")
    assert "<h1>a &lt; b</h1>" in page and "<span>&lt;i&gt;</span>" in page
    assert "Empty" not in page
    assert '<section id="not-so"><h2>Not so</h2><p>x</p></section>' in page
    assert "<script>" not in page


def test_a_table_marks_text_columns_and_many_columns():
    rows = [["a", "1"]]
    plain = template.render(
        "table", caption="c", note="n<sub>1</sub>", head=["x", "y"], rows=rows, text_columns=(0,)
    )
    assert plain == (
        '<div class="scroll"><table><caption>c<span class="note">n<sub>1</sub></span></caption>'
        '<thead><tr><th class="text wrap">x</th><th>y</th></tr></thead>'
        '<tbody><tr><td class="text wrap">a</td><td>1</td></tr></tbody></table></div>'
    )


def test_a_figure_without_files_has_no_links():
    figure = template.render(
        "figure", name="f", claim="N^0.5 **wins**", drawing="<svg/>", caption="<c>", links=()
    )
    assert figure == (
        '<figure id="figure-f"><h3>N<sup>0.5</sup> <b>wins</b></h3><svg/>'
        "<figcaption>&lt;c&gt;</figcaption></figure>"
    )
