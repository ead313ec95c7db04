"""Takes pictures of pages in headless Chromium: what `docs/leaderboard.md` and `docs/space.md` show.

    transrec leaderboard RESULTS.jsonl --output_dir outputs/leaderboard
    python docs/scripts/screenshot.py outputs/leaderboard/index.html docs/pictures/leaderboard

    python outputs/space/app.py
    python docs/scripts/screenshot.py http://127.0.0.1:7860 docs/pictures/space --height 1210 --seconds 15 --photos \\
        --script "[2, 9, 16].forEach((item, place) => setTimeout(
            () => document.querySelector('.grid-wrap').querySelectorAll('button')[item].click(), 3000 * place))"

writes `…_light.png` and `…_dark.png`. It needs Chromium with its driver, selenium and pillow.
"""

import argparse
import io
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver


def take_picture(page: str, width: int, height: int, dark: bool, script: str = "", seconds: float = 0) -> Image.Image:
    """Returns a page as Chromium shows it.

    Args:
        page: the file, or an address.
        width: of the window, in pixels.
        height: of the window; 0 for the whole page.
        dark: whether the system's colours are dark.
        script: run before the picture is taken, to open a row.
        seconds: how long the page is waited for, before the script and after it.
    """
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    with webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver")) as browser:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": height or 800, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(page if page.startswith("http") else Path(page).resolve().as_uri())
        time.sleep(seconds)
        browser.execute_script(script)
        time.sleep(seconds)
        if not height:
            size["height"] = browser.execute_script("return document.documentElement.scrollHeight")
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        return Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")


def main() -> None:
    """Writes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", help="a file, or an address")
    parser.add_argument("output", help="path of the pictures without _light.png and _dark.png")
    parser.add_argument("--width", type=int, default=1180)
    parser.add_argument("--height", type=int, default=780, help="0 for the whole page")
    parser.add_argument("--script", default="", help="JavaScript that is run before")
    parser.add_argument("--photos", action="store_true", help="the page has more colours than a palette")
    parser.add_argument("--seconds", type=float, default=0, help="to wait, before the script and after it")
    options = parser.parse_args()
    for name, dark in (("light", False), ("dark", True)):
        picture = take_picture(options.page, options.width, options.height, dark, options.script, options.seconds)
        # a palette keeps a page's colours in a third of the bytes
        if options.photos:
            picture = picture.quantize(256, method=Image.Quantize.MEDIANCUT)
        else:
            picture = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        picture.save(f"{options.output}_{name}.png", optimize=True)


if __name__ == "__main__":
    main()
