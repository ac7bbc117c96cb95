/*
 * Import wsikit's results for the image that is open in QuPath (0.4 or later).
 *
 * Searches, in this order, for the folder OUT of `wsikit run SLIDE -o OUT`:
 *   1. OUT below, if you set it;
 *   2. the folder of the image, and the folders in it;
 *   3. the folder of the QuPath project, and the folders in it.
 * There it reads OUT/results/<slide_id>/subtype.geojson, adds its regions as annotations, and gives each class its
 * colour. Run it again after a new run: regions that came from wsikit are replaced, your own annotations are kept.
 * Automate > Script editor > Run; or Run > Run for project. Research use only.
 */
import groovy.json.JsonSlurper
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.Paths
import qupath.lib.common.ColorTools
import qupath.lib.io.PathIO
import qupath.lib.objects.classes.PathClass

def OUT = null   // for example "/data/out"; on Windows "C:/data/out"

// The image's file, and the name that wsikit gives to its slide: the file name without its ending.
def uris = getCurrentServer().getURIs()
def file = uris.isEmpty() || uris[0].getScheme() != "file" ? null : Paths.get(uris[0].getPath().replaceFirst("^/([A-Za-z]:)", "\$1"))
def name = file == null ? getCurrentServer().getMetadata().getName() : file.getFileName().toString()
def stem = name.contains(".") ? name.substring(0, name.lastIndexOf(".")) : name

def roots = []
if (OUT != null) {
    roots << Paths.get(OUT)
} else {
    def starts = []
    if (file != null) starts << file.getParent()
    if (getProject() != null) starts << getProject().getPath().getParent()
    for (Path start : starts) {
        roots << start
        def stream = Files.newDirectoryStream(start)
        try {
            stream.each { Path inner -> if (Files.isDirectory(inner)) roots << inner }
        } finally {
            stream.close()
        }
    }
}

// A run records which file each slide_id belongs to. Of two slides of one name the right one is found by that record.
def found = null
for (Path root : roots) {
    def results = root.resolve("results")
    if (!Files.isDirectory(results)) continue
    def stream = Files.newDirectoryStream(results)
    try {
        for (Path folder : stream) {
            def geojson = folder.resolve("subtype.geojson")
            if (!Files.isRegularFile(geojson)) continue
            def id = folder.getFileName().toString()
            def record = root.resolve("slides").resolve("." + id + ".slide.json")
            def source = Files.isRegularFile(record) ? new JsonSlurper().parse(record.toFile()).path : null
            def same = source != null && file != null && Files.exists(Paths.get(source)) && Files.isSameFile(Paths.get(source), file)
            if (same) found = geojson
            else if (found == null && id == stem) found = geojson
        }
    } finally {
        stream.close()
    }
    if (found != null) break
}
if (found == null) {
    print "wsikit: no results/" + stem + "/subtype.geojson in: " + roots.join(", ") + ". Set OUT at the top of this script."
    return
}

// Colours first: QuPath keeps the colour of a class that it already knows, whatever the file says.
def document = new JsonSlurper().parse(found.toFile())
document.features.each { feature ->
    def c = feature.properties.classification
    if (c != null) PathClass.fromString(c.name).setColor(ColorTools.packRGB(c.color[0], c.color[1], c.color[2]))
}

// Regions of an earlier import have the metadata that only wsikit writes.
def earlier = getAnnotationObjects().findAll { it.getMetadata().containsKey("slide_id") && it.getMetadata().containsKey("class") }
removeObjects(earlier, true)
def objects = PathIO.readObjects(found)
addObjects(objects)
resolveHierarchy()
print "wsikit: " + objects.size() + " regions from " + found + (earlier.isEmpty() ? "" : "; " + earlier.size() + " earlier ones replaced")
