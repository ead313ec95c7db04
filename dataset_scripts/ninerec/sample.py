"""A small SYNTHETIC sample in NineRec's layout: two platforms with the same topics and disjoint users and items.

Users have one to three tastes that take turns; an item's texts and cover express its topic. So content tells what
comes next, on a platform never seen before, and ids do not. Everything follows from the seeds below.
"""

import csv
import functools
import hashlib
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .whole_folders import made_once


logger = logging.getLogger(__name__)

README = """SYNTHETIC DATA. Users, items, texts, covers and interactions in this folder are made by a seeded generator
(dataset_scripts/ninerec/sample.py of modeling_transrec). They have the layout of NineRec and nothing else of it.
"""

# Topic: Chinese and English word pairs.
TOPICS = {
    "cooking": "火锅:hotpot 烘焙:baking 面条:noodles 烧烤:barbecue 甜点:dessert 厨房:kitchen 食谱:recipe "
    "牛排:steak 早餐:breakfast 饺子:dumplings 蛋糕:cake 咖喱:curry",
    "football": "足球:football 进球:goal 守门员:goalkeeper 联赛:league 点球:penalty 冠军:champion "
    "球迷:fans 前锋:striker 教练:coach 决赛:final 传球:pass 世界杯:worldcup",
    "cats": "猫咪:cat 小猫:kitten 猫粮:catfood 宠物:pet 毛球:furball 爪子:paw 喵星人:meow 猫窝:cattree "
    "胡须:whiskers 橘猫:tabby 呼噜:purr 铲屎官:catowner",
    "travel": "旅行:travel 海滩:beach 机票:flight 背包:backpack 古镇:oldtown 酒店:hotel 攻略:itinerary "
    "海岛:island 自驾:roadtrip 签证:visa 日落:sunset 火车:train",
    "games": "游戏:game 通关:speedrun 手柄:controller 副本:dungeon 装备:loot 主机:console 电竞:esports "
    "关卡:level 玩家:player 像素:pixel 任务:quest 沙盒:sandbox",
    "music": "吉他:guitar 演唱会:concert 钢琴:piano 翻唱:cover 歌手:singer 专辑:album 鼓手:drummer "
    "旋律:melody 乐队:band 说唱:rap 小提琴:violin 歌词:lyrics",
    "fashion": "穿搭:outfit 口红:lipstick 裙子:dress 包包:handbag 时尚:fashion 模特:model 香水:perfume "
    "高跟鞋:heels 妆容:makeup 配饰:jewelry 发型:hairstyle 衬衫:shirt",
    "science": "物理:physics 实验:experiment 黑洞:blackhole 化学:chemistry 火箭:rocket 宇宙:universe "
    "量子:quantum 恐龙:dinosaur 基因:gene 望远镜:telescope 原子:atom 显微镜:microscope",
    "cars": "汽车:car 发动机:engine 跑车:supercar 试驾:testdrive 轮胎:tyre 改装:tuning 漂移:drift "
    "摩托:motorbike 赛道:racetrack 电动车:electric 油耗:mileage 越野:offroad",
    "fitness": "健身:fitness 跑步:running 瑜伽:yoga 腹肌:abs 减脂:fatloss 深蹲:squat 跳绳:skipping "
    "拉伸:stretching 哑铃:dumbbell 马拉松:marathon 蛋白:protein 教练课:workout",
    "anime": "动漫:anime 漫画:manga 手办:figurine 配音:voiceactor 番剧:episode 机甲:mecha 少女:heroine "
    "忍者:ninja 剧场版:animefilm 角色:character 声优:seiyuu 二次元:otaku",
    "film": "电影:film 导演:director 悬疑:thriller 影评:review 票房:boxoffice 演员:actor 科幻:scifi "
    "剧本:script 镜头:camera 喜剧:comedy 奥斯卡:oscar 预告:trailer",
    "painting": "绘画:painting 水彩:watercolor 素描:sketch 油画:oilpaint 插画:illustration 画笔:brush "
    "书法:calligraphy 色彩:palette 画廊:gallery 涂鸦:graffiti 陶艺:pottery 雕塑:sculpture",
    "gadgets": "手机:phone 评测:unboxing 电脑:laptop 芯片:chip 耳机:headphones 键盘:keyboard 相机:lens "
    "屏幕:screen 显卡:gpu 平板:tablet 充电:charger 无人机:drone",
    "gardening": "花园:garden 多肉:succulent 种子:seeds 玫瑰:rose 盆栽:bonsai 浇水:watering 阳台:balcony "
    "番茄:tomato 土壤:soil 郁金香:tulip 修剪:pruning 蝴蝶:butterfly",
    "history": "历史:history 皇帝:emperor 王朝:dynasty 文物:relic 战争:war 考古:archaeology 城堡:castle "
    "博物馆:museum 骑士:knight 丝绸之路:silkroad 古墓:tomb 帝国:empire",
}
VOCABULARY = {topic: [tuple(pair.split(":")) for pair in words.split()] for topic, words in TOPICS.items()}
TEMPLATES = (
    ("【{noise_zh}】{words_zh}，{noise2_zh}", "{noise_en}: {words_en} {noise2_en}"),
    ("{noise_zh}的{words_zh}你见过吗", "have you seen {words_en}, {noise_en}"),
    ("{words_zh}{noise_zh}第{number}期", "{words_en} {noise_en} part {number}"),
    ("{number}分钟看懂{words_zh}，{noise_zh}", "{words_en} in {number} minutes, {noise_en}"),
    ("我和{words_zh}的{noise_zh}", "my {noise_en} with {words_en}"),
    ("{noise2_zh}！{noise_zh}{words_zh}合集", "{noise2_en}! {noise_en} {words_en} compilation"),
)
NOISE = [
    tuple(pair.split(":"))
    for pair in (
        "超级:super 日常:daily 必看:must-see 意外:surprise 最新:latest 故事:story 周末:weekend 分享:sharing "
        "挑战:challenge 真实:real 秘密:secret 完整:full 新手:beginner 大神:master 记录:diary 经典:classic "
        "搞笑:funny 治愈:calm 全网:viral 第一次:first-time 深夜:late-night 夏天:summer 朋友:friends 热门:trending"
    ).split()
]
SHAPES = ("circle", "square", "triangle", "cross")


@dataclass(frozen=True)
class Platform:
    """One synthetic platform; ids start with `prefix`."""

    prefix: str
    seed: int
    num_users: int
    num_items: int
    topic_skew: float  # exponent of the topics' popularity
    item_skew: float  # exponent of the items' popularity


PLATFORMS = {
    "Sample_Source": Platform("s", seed=20230, num_users=2000, num_items=600, topic_skew=0.4, item_skew=0.5),
    "Sample_Target": Platform("t", seed=20231, num_users=800, num_items=300, topic_skew=0.3, item_skew=0.5),
}
SAMPLES = tuple(PLATFORMS)
# A small text backbone, trained on Sample_Source by benchmarks/sample_backbone.py: a folder of sentence-transformers.
SAMPLE_BACKBONE = str(Path(__file__).with_name("sample_backbone"))
STAY, SWITCH = 0.36, 0.26  # chance to stay with the topic, to turn to another taste; else any topic
WORD_PULL = 0.9  # how much a word shared with the last item attracts
IMAGE_SIZE = 64
START_TIME = 1_600_000_000


@functools.cache
def source_hash() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


def sample_folder(cache_dir: str | Path) -> Path:
    """Returns the folder with the sample under `cache_dir`, which is written on first use.

    It is written under another name and renamed when complete, so that no process sees half of it.
    """
    folder = Path(cache_dir).expanduser() / "ninerec_sample" / source_hash()
    if not folder.is_dir():
        with made_once(folder) as unfinished:
            if unfinished is not None:
                write_sample(unfinished)
        logger.warning("Sample_Source and Sample_Target are SYNTHETIC data, written to %s", folder)
    return folder


def write_sample(folder: str | Path) -> None:
    """Writes both platforms under `folder` exactly as NineRec is laid out: `NAME/NAME_pair.csv` and so on."""
    folder = Path(folder)
    for name, platform in PLATFORMS.items():
        rng = np.random.default_rng(platform.seed)
        topics, words = make_items(platform, rng)
        item_ids = [f"{platform.prefix}{i + 1:04d}" for i in range(platform.num_items)]
        covers = folder / name / f"{name}_cover"
        covers.mkdir(parents=True)
        with open(folder / name / f"{name}_item.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            for item_id, topic, chosen in zip(item_ids, topics, words, strict=True):
                writer.writerow([item_id, *make_texts(topic, chosen, rng)])
                make_cover(topic, rng).save(covers / f"{item_id}.jpg", quality=85)
        interactions = make_interactions(platform, topics, words, rng)
        with open(folder / name / f"{name}_pair.csv", "w", encoding="utf-8", newline="") as file:
            for timestamp, user, item in interactions:
                file.write(f"{platform.prefix}u{user + 1:05d},{item_ids[item]},{timestamp}\n")
    (folder / "README.txt").write_text(README, encoding="utf-8")


def make_items(platform: Platform, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns topics `(V,)` of the items and their words: a 0/1 matrix `(V, words of a topic)`, 2 or 3 ones a row."""
    popularity = _long_tail(len(TOPICS), platform.topic_skew, rng)
    topics = rng.choice(len(TOPICS), size=platform.num_items, p=popularity)
    topics[: len(TOPICS)] = np.arange(len(TOPICS))  # every topic has an item
    num_words = len(next(iter(VOCABULARY.values())))
    order = rng.random((platform.num_items, num_words)).argsort(axis=1)
    words = (order < rng.integers(2, 4, size=(platform.num_items, 1))).astype(np.int64)
    return topics, words


def make_texts(topic: int, words: np.ndarray, rng: np.random.Generator) -> tuple[str, str]:
    """Returns a Chinese and an English title with the item's words between words that mean nothing."""
    vocabulary = list(VOCABULARY.values())[topic]
    chosen = [vocabulary[i] for i in rng.permutation(np.flatnonzero(words))]
    noise, noise2 = (NOISE[i] for i in rng.choice(len(NOISE), size=2, replace=False))
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    fields = {
        "words_zh": "和".join(zh for zh, _ in chosen),
        "words_en": " and ".join(en for _, en in chosen),
        "noise_zh": noise[0],
        "noise_en": noise[1],
        "noise2_zh": noise2[0],
        "noise2_en": noise2[1],
        "number": rng.integers(2, 60),
    }
    return template[0].format(**fields), template[1].format(**fields)


def make_cover(topic: int, rng: np.random.Generator) -> Image.Image:
    """Returns an image whose colour and shape tell the topic; position, size, shade and noise do not."""
    hue = int(256 * (topic % 8) / 8)
    shade = int(rng.integers(150, 256))
    background = Image.new("HSV", (IMAGE_SIZE, IMAGE_SIZE), (hue, 60 + int(rng.integers(40)), 255 - shade // 2))
    image = background.convert("RGB")
    colour = Image.new("HSV", (1, 1), (hue, 230, shade)).convert("RGB").getpixel((0, 0))
    draw = ImageDraw.Draw(image)
    radius = int(rng.integers(12, 22))
    x, y = (int(rng.integers(radius, IMAGE_SIZE - radius)) for _ in range(2))
    box = (x - radius, y - radius, x + radius, y + radius)
    shape = SHAPES[2 * (topic // 8) + topic % 2]
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "square":
        draw.rectangle(box, fill=colour)
    elif shape == "triangle":
        draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=colour)
    else:
        draw.line((x - radius, y, x + radius, y), fill=colour, width=radius // 2)
        draw.line((x, y - radius, x, y + radius), fill=colour, width=radius // 2)
    noise = rng.integers(-12, 13, size=(IMAGE_SIZE, IMAGE_SIZE, 1))
    return Image.fromarray((np.asarray(image, dtype=np.int64) + noise).clip(0, 255).astype(np.uint8))


def make_interactions(
    platform: Platform, topics: np.ndarray, words: np.ndarray, rng: np.random.Generator
) -> list[tuple[int, int, int]]:
    """Returns (timestamp, user, item) of all users in time order; nobody has an item twice."""
    topic_popularity = np.bincount(topics, minlength=len(TOPICS)) / len(topics)
    item_popularity = _long_tail(len(topics), platform.item_skew, rng)
    members = [np.flatnonzero(topics == topic) for topic in range(len(TOPICS))]
    shared = words @ words.T  # (V, V) words in common, of use within a topic
    interactions = []
    for user in range(platform.num_users):
        tastes = rng.choice(len(TOPICS), size=rng.integers(1, 4), replace=False, p=topic_popularity)
        length = min(5 + int(rng.geometric(1 / 6.5)) - 1, 40)
        time = START_TIME + int(rng.integers(0, 30_000_000))
        topic, last = tastes[0], None
        seen: set[int] = set()
        while len(seen) < length:
            chance = rng.random()
            if chance >= STAY and seen:
                pool = tastes if chance < STAY + SWITCH else np.arange(len(TOPICS))
                topic = pool[rng.integers(len(pool))]
            candidates = np.array([item for item in members[topic] if item not in seen], dtype=np.int64)
            if not candidates.size:
                topic = int(rng.integers(len(TOPICS)))
                continue
            weights = item_popularity[candidates]
            if last is not None and topics[last] == topic:
                weights = weights * np.exp(WORD_PULL * shared[candidates, last])
            last = int(rng.choice(candidates, p=weights / weights.sum()))
            seen.add(last)
            interactions.append((time, user, last))
            time += 60 + int(-math.log(1 - rng.random()) * 200_000)
    return sorted(interactions)


def _long_tail(size: int, skew: float, rng: np.random.Generator) -> np.ndarray:
    """Probabilities of a long tail, rank^-skew, in random order."""
    weights = rng.permutation(np.arange(1, size + 1) ** -skew)
    return weights / weights.sum()
