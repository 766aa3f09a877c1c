"""Whether the fast Huffman decoder agrees with libjpeg's own on this machine, asked once."""

import base64
import ctypes
import logging

logger = logging.getLogger(__name__)

HEIGHT, WIDTH = 24, 40
# A JPEG of gradients and noise, in color and with chroma at half the resolution: its codes are of
# many lengths, and its size is no multiple of a block's.
JPEG = base64.b85decode(
    """
|JeWF01!$>Nk#wx0RR9200961|JwjV01XKW3knDg3knMk4h;_zAQcl55)&sJ9v2`kDKRiEDJ?8BI!Zn>HbyrrEkIX6ModmpQ
&KWMT47pHU`kO^PygEhLjevB4iga*CKVMXPc<zyPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPft%zPf
t%zPf!2A01*fP7yu{(0U`hb5di}c0sq7R9{>OW1pxs80RaI300000000010s{mE1_uZU3Jd?l0JRVR0s#X90t5pE1q1{D00D
gg0s{a95d{(<F+m0sQDFxnaTGFvk)a49Lb1UWQqk}vGh%Xr2?`b$7#SKRCMPH<Dl|1VH#j*uLqtVJM@UIZQ&d$}S6EqEV`OD
!XJ~0^b98lfcX)YvgM@{Khlq)al9QB`mY0~BnxdnmrKYE-sj9NGw6(UkxVgH*!^FkL$H>Xb($mz{*4NnC+Tr5k<mKk)=;`Y5
^7Hid_V@Vt`v1fL9{~UZ0RaI40RaI40RR91000010s{mE1_uZU3Jd?l0JRYS0s#U91Oo&I1q1{D0Rndb0RjUN1O*{61`<J02
Vrp&A~Jyp6he`qvB3!=Gg9ysVsg<679=#`CGi&+85$-hC@Cs6Ha9pqIzvQ7Mn_0VN>fx-R##YAT4Q8oW@l(=YIAgTc6WGrdV
+(5g@%WSiHeewl$Dm3n3<ZQqok##r>Lo_va__cwzs&sy28W6#m2|T$;#5x)YaD4*xB0R<K*S$=jiF`^7Hid_V@Vt`v2Mh3<C
iG0ucid06zfW*3`3+(2SgsinRr!U@IJ)9x;Q{HK>+Mr1S>>5J@=ve=5+5z=aC!&T=xN91o>U1?`S{ILmc0;<DgxD#ILs*YK-
Q*k>FNbID=T-}J44ZX#W~4&%oe<JTvzUr*AeiqdDuCt*B*y}R`F>Hd0cHHU-cw=?XIVumrjZe@LhfJ@|L;1BTpf0Y%r4T>nk
sZcpN>yLbM>(+|GP8axMyqo_3hCP~i-*>Abg2!>n^ce>yk^X<BTo&6RMA&z98B^Pz%fIFL6jvP@(}o&Sj{gAgQTc5OvUL<&E
Jb3Wa&UT%orn4Lt1#NK<yUD?amR1)qKZ>)oFNFib6)=dBiX~%le=W`SgNqj?ZY1+>CbOrMHE*BTC<GYAncR2iGH^|h*qB}Xa
Cs
""".replace("\n", "")
)


def check_decoder(library: ctypes.CDLL, expected: bytes = JPEG) -> bool:
    """Let the library use its fast decoder if it decodes ``JPEG`` to the pixels of ``expected``.

    Where it does not, or where libjpeg's private structure is laid out otherwise, libjpeg's own
    decoder is used, and a warning says so.
    """
    size = ctypes.c_int64
    status = library.pixels_check_decoder(
        JPEG, size(len(JPEG)), expected, size(len(expected)), size(HEIGHT), size(WIDTH)
    )
    if status != 0:
        logger.warning(
            "the fast JPEG decoder does not agree with this libjpeg, whose own decoder is used: "
            "loading takes longer; build the package again with the libjpeg that is installed"
        )
    return bool(status == 0)
