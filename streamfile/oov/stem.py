"""Shortened runs of characters and stems, by which similar words are found."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

MOST_STEMMED = 150
LEAST_LEFT = 4
RUN_OF_TWO = re.compile(r"([^<])\1+", re.DOTALL)
RUN_OF_THREE = re.compile(r"([^<])\1{2,}", re.DOTALL)

# Separated by commas, because one prefix ends in a space.
ENGLISH_PREFIXES = (
    "counter,electro,circum,contra,contro,crypto,deuter,franco,hetero,megalo,preter,pseudo,"
    "after,under,amphi,anglo,astro,extra,hydro,hyper,infra,inter,intra,micro,multi,ortho,"
    "paleo,photo,proto,quasi,retro,socio,super,supra,trans,ultra,anti,back,down,fore,hind,"
    "midi,mini,over,post,self,step,with,afro,ambi,ante,arch,auto,cryo,demi,demo,euro,gyro,"
    "hemi,homo,hypo,ideo,idio,indo,macr,maxi,mega,meta,mono,mult,omni,para,peri,pleo,poly,"
    "pros,pyro,semi,tele,vice,dis,mid,mis,off,out,pre,pro,twi,ana,apo,bio,cis,con,com,col,"
    "cor,dia,dif,duo,eco,epi,geo,im ,iso,mal,mon,neo,non,pan,ped,per,pod,sub,sup,sur,syn,syl,"
    "sym,tri,uni,be,by,co,de,en,em,ex,on,re,un,up,an,ap,bi,di,du,el,ep,in,il,ir,sy,a"
)
ENGLISH_SUFFIXES = (
    "ification,ologist,ology,able,ible,hood,ness,less,ment,tion,logy,like,ise,ize,ful,ess,"
    "ism,ist,ish,ity,ant,oid,ory,ing,fy,ly,al"
)

PREFIXES = frozenset(form for affix in ENGLISH_PREFIXES.split(",") for form in (affix, affix + "-"))
SUFFIXES = frozenset(form for affix in ENGLISH_SUFFIXES.split(",") for form in (affix, "-" + affix))
SIZES = range(max(map(len, PREFIXES | SUFFIXES)), 0, -1)


def shrink_to_one(text: str) -> str:
    """Shorten each run of a character to one; runs of ``<`` stay."""
    return RUN_OF_TWO.sub(r"\1", text)


def shrink_to_two(text: str) -> str:
    """Shorten each run of three or more of a character to two; runs of ``<`` stay."""
    return RUN_OF_THREE.sub(r"\1\1", text)


def stem(key: str, language: str | None) -> str:
    """Strip prefixes and suffixes as long as four characters remain.

    Parameters
    ----------
    key
        A word; a word of more than 150 characters is returned unchanged.
    language
        ``"en"``; for any other language the word is returned unchanged.
    """
    if language != "en" or len(key) > MOST_STEMMED:
        return key
    while True:
        lower = key.lower()
        before = _longest((lower[:size] for size in SIZES), PREFIXES)
        behind = _longest((lower[-size:] for size in SIZES), SUFFIXES)
        begin = before if before >= behind else 0
        end = len(key) - (behind if behind >= before else 0)
        if (not before and not behind) or len(key[begin:end]) < LEAST_LEFT:
            return key
        key = key[begin:end]


def _longest(parts: Iterable[str], listed: Collection[str]) -> int:
    """Return the length of the first part that is in a list, 0 if none is."""
    return next((len(part) for part in parts if part in listed), 0)
