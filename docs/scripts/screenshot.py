"""Takes pictures of a leaderboard in headless Chromium: what `docs/leaderboard.md` shows.

    transrec leaderboard RESULTS.jsonl --output_dir outputs/leaderboard
    python docs/scripts/screenshot.py outputs/leaderboard/index.html docs/pictures/leaderboard

writes `…_light.png` and `…_dark.png`. It needs Chromium with its driver, selenium and pillow.
"""

import argparse
import io
from pathlib import Path

from PIL import Image
from selenium import webdriver


def take_picture(page: Path, width: int, height: int, dark: bool, script: str = "") -> Image.Image:
    """Returns a page as Chromium shows it.

    Args:
        page: the file.
        width: of the window, in pixels.
        height: of the window; 0 for the whole page.
        dark: whether the system's colours are dark.
        script: run before the picture is taken, to open a row.
    """
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    with webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver")) as browser:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": height or 800, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(page.resolve().as_uri())
        browser.execute_script(script)
        if not height:
            size["height"] = browser.execute_script("return document.documentElement.scrollHeight")
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        return Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")


def main() -> None:
    """Writes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("output", help="path of the pictures without _light.png and _dark.png")
    parser.add_argument("--width", type=int, default=1180)
    parser.add_argument("--height", type=int, default=780, help="0 for the whole page")
    parser.add_argument("--script", default="", help="JavaScript that is run before")
    options = parser.parse_args()
    for name, dark in (("light", False), ("dark", True)):
        picture = take_picture(options.page, options.width, options.height, dark, options.script)
        # a palette keeps a page's colours in a third of the bytes
        picture = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        picture.save(f"{options.output}_{name}.png", optimize=True)


if __name__ == "__main__":
    main()
