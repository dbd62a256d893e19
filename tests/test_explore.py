"""The page of `ae explore`, driven in a browser as a user would drive it."""

import shutil

import pytest
from conftest import trained

from aelab.errors import UserError
from aelab.figures.explore_page import explore


@pytest.fixture
def page(own_run):
    """The page in a headless browser, from a file: URL, without network."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium or Chrome on this machine")
    from playwright.sync_api import sync_playwright

    path = explore(own_run)
    with sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        context = instance.new_context(offline=True)
        view = context.new_page()
        view.problems = []
        view.on("pageerror", lambda error: view.problems.append(str(error)))
        view.on("request", lambda request: view.problems.append(request.url) if "http" in request.url[:5] else None)
        view.goto(path.as_uri())
        view.wait_for_function("pixels !== null")
        yield view
        instance.close()


def test_a_page_of_another_checkpoint_lies_beside(own_run):
    page = explore(own_run)
    content = page.read_text(encoding="utf-8")
    other = explore(own_run, checkpoint="last")
    assert page.read_text(encoding="utf-8") == content
    assert other.parent.parent == own_run.folder / "figures"


def image(page) -> str:
    return page.evaluate("document.getElementById('image').toDataURL()")


@pytest.mark.slow
def test_a_drag_changes_the_decoded_image(page):
    box = page.locator("#plane").bounding_box()
    shown = [image(page)]
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for share in (0.2, 0.9):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + share * box["height"], steps=3)
        shown.append(image(page))
    page.mouse.up()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    assert len(set(shown)) == 3
    assert image(page) == shown[-1], "no button is pressed, so this is no drag"
    page.select_option("#which", index=1)
    page.wait_for_function(f"document.getElementById('image').toDataURL() !== {shown[-1]!r}")
    assert page.problems == []


@pytest.mark.slow
def test_the_page_decodes_as_the_model_does(page, own_run):
    """At a corner of the plane, each pixel is within 3 of 255 greys of the image that the model decodes."""
    import numpy as np
    import torch
    from sklearn.decomposition import PCA

    from aelab.composition import build
    from aelab.composition.trained import Trained

    box = page.locator("#plane").bounding_box()
    page.mouse.click(box["x"] + box["width"] - 0.5, box["y"] + 0.5)  # upper right: +3, +3 deviations
    length = page.evaluate("image.width * image.height * 4")
    found = page.evaluate("[...image.getContext('2d').getImageData(0, 0, image.width, image.height).data]")
    assert len(found) == length
    z = Trained.of(own_run).codes("test")[0].numpy()
    pca = PCA(3, random_state=0).fit(z)
    corner = pca.mean_ + 3 * (pca.components_ * np.sqrt(pca.explained_variance_)[:, None])[:2].sum(0)
    with torch.no_grad():
        expected = build.trained(own_run).decode(torch.from_numpy(corner).float()[None])[0, 0] * 255
    assert np.abs(np.array(found[::4]).reshape(8, 8) - expected.numpy()).max() < 3


def test_what_the_page_holds(own_run):
    text = explore(own_run, units=[0, 3]).read_text(encoding="utf-8")
    assert "{{" not in text
    assert "units 0 and 3" in text
    assert "test/loss" in text
    assert "latent_dim: 16" in text
    with pytest.raises(UserError, match="must be two of the units"):
        explore(own_run, units=[0, 16])


@pytest.mark.parametrize("override", ["model=vqvae", "model.latent_dim=1"])
def test_what_has_no_plane(override, tmp_path):
    run = trained(tmp_path / "run", "trainer.max_epochs=1", override)
    with pytest.raises(UserError, match="a vector of two units or more"):
        explore(run)


def test_a_conditional_model_has_a_plane_a_class(tmp_path):
    run = trained(tmp_path / "run", "trainer.max_epochs=1", "model=cvae")
    assert "principal axes 1 and 2, class 9" in explore(run).read_text(encoding="utf-8")
